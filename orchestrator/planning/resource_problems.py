"""What of an experiment a machine or its storage folder cannot hold: workers, GPUs, disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.base.errors import BaseFilesError
from orchestrator.base.facts import base_facts
from orchestrator.engines.shm_op import forgotten_lock
from orchestrator.executors.cluster_fit import ClusterError, largest_resources, required_fit
from orchestrator.executors.ray_settings import no_ray_folder
from orchestrator.planning.method_sizes import method_facts, shared_states_bytes, storage_bytes
from orchestrator.planning.storage_folder import existing_folder, probe_storage
from orchestrator.spec.experiment import Experiment
from orchestrator.system.byte_units import MIB
from orchestrator.system.machine import hidden_gpus, usable_cores
from orchestrator.system.ray_environment import ray_folder


@dataclass(frozen=True)
class Available:
    """What there is to run on; None stands for what is not known yet."""

    cpus: float | None
    gpus: float | None
    free_disk: int | None
    """Free bytes where sweeps are kept."""


def own_devices(experiment: Experiment) -> tuple[float, float]:
    """The CPUs and GPUs of this machine; GPUs are looked for only when they are wanted."""
    if largest_resources(experiment).gpus_per_worker == 0:
        return usable_cores(), 0.0
    import torch

    return usable_cores(), float(torch.cuda.device_count())


def resource_problems(experiment: Experiment, available: Available) -> Iterator[str]:
    """Workers, CPUs and GPUs that a machine does not have, a message each."""
    if available.cpus is None or available.gpus is None:
        return
    wanted = largest_resources(experiment)
    if wanted.facts.on_ray:
        try:
            ray_folder()
        except OSError as error:
            yield no_ray_folder(error)
    lock = forgotten_lock() if wanted.facts.on_ray else None
    if lock is not None:
        yield (
            f"A build of DeepSpeed's communication op never ended, and workers would wait for its "
            f"lock for ever: remove {lock}, and run `orchestrate doctor --build`."
        )
    if not wanted.facts.on_ray and wanted.gpus_per_worker > available.gpus:
        yield (
            f"`resources.gpus_per_worker` is {wanted.gpus_per_worker}, and this machine has "
            f"{available.gpus:g} GPUs. Set it to 0, or run where there is one.{_hidden()}"
        )
    try:
        required_fit(wanted, cpus=available.cpus, gpus=available.gpus)
    except ClusterError as error:
        yield f"{error}{_hidden() if wanted.gpus_per_worker else ''}"


def _hidden() -> str:
    """Whether the environment keeps GPUs from this process, as a sentence."""
    hidden = hidden_gpus()
    return f" ({hidden}, which may hide GPUs.)" if hidden else ""


def storage_problems(
    experiment: Experiment, storage: Path, free: int | None, trials: int
) -> Iterator[str]:
    """Why sweeps cannot be kept in the storage folder, a message each."""
    existing = existing_folder(storage)
    try:
        probe_storage(existing)
    except OSError as error:
        yield (
            f"`storage` {storage} cannot be written: {existing}: {error.strerror or error}. Set "
            "`storage` to a folder that you can write to."
        )
        return
    try:
        base = base_facts(experiment.model)
    except BaseFilesError:
        return
    methods = method_facts(experiment, base) if base else []
    tasks = len(experiment.tasks)
    need = storage_bytes(methods, trials, tasks)
    need += shared_states_bytes(methods, trials, tasks, storage, free)
    if free is not None and need > free:
        yield (
            f"`storage` {storage} has {free / MIB:,.0f} MiB free, and about {need / MIB:,.0f} MiB "
            f"are needed for {trials} trials ({need / MIB / max(1, trials):,.1f} MiB each). Free "
            "some, or set `storage` to a folder on a larger disk."
        )
