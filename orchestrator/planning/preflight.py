"""What can be known to fail before a trial starts, each with its arithmetic and its remedy.

A sweep is refused here rather than after an hour: a layer that the model does not have, a rank that
a layer cannot hold, a text longer than the model's context, workers that no machine here has, a
storage folder that cannot be written or is too full, a tracking server that does not answer. The
base model's config and the header of its weights are read, never the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from orchestrator.base.errors import BaseFilesError
from orchestrator.base.facts import BaseFacts, base_facts
from orchestrator.engines.deepspeed_config import deepspeed_refuses
from orchestrator.executors.cluster_checks import check_driver
from orchestrator.executors.cluster_fit import ClusterError, fit
from orchestrator.planning.base_problems import base_problems
from orchestrator.planning.memory import memory_parts, memory_shortage
from orchestrator.planning.method_sizes import MethodFacts, method_facts, method_problems
from orchestrator.planning.resource_problems import (
    Available,
    own_devices,
    resource_problems,
    storage_problems,
)
from orchestrator.planning.storage_folder import free_disk
from orchestrator.planning.warnings import slow_bf16
from orchestrator.records.errors import TrackingError
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.mlflow.client import check_reachable
from orchestrator.records.mlflow.storage_folder import network_file_system
from orchestrator.spec.batch_invariance import invariance_refused
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.reach import reachable
from orchestrator.system import machine
from orchestrator.system.user_error import UserError


class PreflightError(UserError, ValueError):
    """An experiment that cannot run here as it is; one message with every reason."""


def cautions(experiment: Experiment, storage: Path, address: str | None = None) -> list[str]:
    """What is worth knowing before a sweep begins, although nothing is in its way.

    Args:
        experiment: An experiment that `check` let pass.
        storage: The folder that sweeps are kept in.
        address: The cluster that will be joined; None: this machine.

    Returns:
        A line for each size that the retentions carry between tasks, with the arithmetic (none
        where the base's sizes are not known on this machine), one where the workers need more
        memory than this machine has free, one where the file asks for bf16 and this machine does
        not multiply it, and one where MLflow's database would lie on a network file system.
    """
    base = base_facts(experiment.model)
    facts = method_facts(experiment, base) if base else []
    carried = dict.fromkeys(m.arithmetic for m in facts if m.retention != "none")
    found = [f"carried between tasks: {line}" for line in carried]
    short = _shortage(experiment, base, facts) if address is None and base else None
    if short is not None:
        found.append(short)
    slow = slow_bf16(experiment) if address is None else None
    if slow is not None:
        found.append(slow)
    kind = network_file_system(tracking_uri(experiment.tracking.uri, storage))
    if kind is not None:
        found.append(
            f"MLflow's database would lie on a network file system ({kind}), on which SQLite can "
            "be damaged when two machines open it. The journals are safe there and can rebuild it. "
            "To be without that risk, name a local file (`tracking: {uri: "
            "sqlite:////home/YOU/mlflow.db}`) or a server"
        )
    return found


def _shortage(
    experiment: Experiment, base: BaseFacts, methods: list[MethodFacts]
) -> str | None:  # fmt: skip
    cpus, gpus = own_devices(experiment)
    here = machine.memory()
    at_once = min(
        fit(experiment.resources, cpus=cpus, gpus=gpus).at_once,
        (experiment.search and experiment.search.max_concurrent) or experiment.expected_trials,
        experiment.expected_trials,
    )
    return memory_shortage(
        experiment, sum(memory_parts(experiment, base, methods).values()),
        here[1] if here else None, at_once=at_once, cpus=cpus, gpus=gpus,
    )  # fmt: skip


def check(loaded: LoadedExperiment, storage: Path, *, trials: int, address: str | None) -> None:
    """Refuse an experiment that cannot run.

    Args:
        loaded: The experiment and its tasks.
        storage: The folder that sweeps are kept in.
        trials: How many trials are still to be run.
        address: The cluster that will be joined; None: this machine.

    Raises:
        PreflightError: If anything is in the way.
    """
    cpus, gpus = (None, None) if address is not None else own_devices(loaded.experiment)
    available = Available(cpus, gpus, free_disk(storage))
    found = problems(loaded, storage, available, trials=trials, ask_hub=True)
    if address is not None:
        try:
            check_driver(address)
        except ClusterError as error:
            found.append(str(error))
    if len(found) == 1:
        raise PreflightError(found[0])
    if found:
        listed = "\n".join(f"  {number}. {text}" for number, text in enumerate(found, start=1))
        raise PreflightError(f"{len(found)} problems found:\n{listed}")


def problems(
    loaded: LoadedExperiment, storage: Path, available: Available, *, trials: int, ask_hub: bool
) -> list[str]:
    """Everything that is known to be in the way.

    Args:
        loaded: The experiment and its tasks.
        storage: The folder that sweeps are kept in; it need not exist yet.
        available: What there is to run on.
        trials: How many trials are to be run.
        ask_hub: Whether the config of a hub model that is not on this machine is downloaded.

    Returns:
        One message each, empty when nothing is.
    """
    experiment = loaded.experiment
    found = [*base_problems(loaded, ask_hub=ask_hub)]
    found += resource_problems(experiment, available)
    if experiment.training.batch_invariant is True:
        refused = invariance_refused(experiment.resources)
        found += [f"`training.batch_invariant` cannot be had: {refused}"] if refused else []
    found += _method_problems(experiment)
    found += _deepspeed_problems(experiment)
    found += storage_problems(experiment, storage, available.free_disk, trials)
    if experiment.tracking.uri is not None:
        try:
            check_reachable(experiment.tracking.uri)
        except TrackingError as error:
            found.append(str(error))
    return found


def _method_problems(experiment: Experiment) -> Iterator[str]:
    try:
        base = base_facts(experiment.model)
    except BaseFilesError:
        base = None  # reported above
    yield from method_problems(experiment, base)


def _deepspeed_problems(experiment: Experiment) -> Iterator[str]:
    """What DeepSpeed would say of a file's section when the first trial has its workers."""
    search = experiment.search
    named = [path for entry in (search.space, *search.first) for path in entry] if search else []
    paths = [path for path in dict.fromkeys(named) if path.startswith("training.deepspeed.")]
    trials = [experiment, *(reachable(experiment, paths) if paths else ())]
    specs = {
        json.dumps(trial.training.deepspeed, sort_keys=True, default=str): trial.training
        for trial in trials
        if trial.training.deepspeed
    }
    if not specs:
        return
    refused = [deepspeed_refuses(spec) for spec in specs.values()]
    yield from dict.fromkeys(text for text in refused if text is not None)
