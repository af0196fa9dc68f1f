"""The sweep that learns further tasks on from a finished trial, made of what its journal says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from curlora_kinds.retentions.table import RETENTIONS
from curlora_kinds.settings import Number
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.measures.objectives import ProbeReading, measures
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment, complete_recorded
from orchestrator.spec.sections import ModelSpec
from orchestrator.spec.task_files import at_data_root, find_task_file, load_task, parse_task
from orchestrator.spec.task_kinds import TaskSpec
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.extending.parent import Parent

TRIED = 8
"""Trials of a search that no budget ends."""
AROUND = 5.0
"""How far from the champion's learning rate, and from its retention's knob, a search looks."""
KNOBS = ("pull", "strength", "lambda1", "share")
"""What says how much a retention protects; of several the first."""


@dataclass(frozen=True)
class Wanted:
    """What is to be learnt on from a trial, and how."""

    tasks: tuple[str, ...]
    """Names of task files, or their paths."""
    probes: tuple[str, ...] = ()
    """Further ones, beside those of the trial's sweep."""
    name: str | None = None
    """Of the new sweep; None: after the trial's sweep and the tasks."""
    select: bool = False
    """Whether learning rate and retention's knob are searched; else they are the trial's."""
    time_budget: str | None = None
    executor: str | None = None
    """None: that of the trial's sweep."""
    base: Path | None = None
    """Where the base is now, if it was moved."""
    data_root: Path | None = None


def extension_of(
    parent: Parent, wanted: Wanted, storage: Path, tracking_uri: str | None
) -> LoadedExperiment:
    """Make the experiment that learns on from a trial.

    Args:
        parent: The trial.
        wanted: What is to be learnt.
        storage: The folder that sweeps are kept in.
        tracking_uri: Where MLflow records; None: as the trial's sweep says.

    Returns:
        An experiment over the trial's tasks and the further ones.

    Raises:
        SweepError: If the tasks are not further ones.
        ExperimentError: If the trial's method cannot learn them.
        TaskFileError: If a task file is missing or wrong.
    """
    old, begun = parent.experiment, parent.state
    further, files = _read(wanted.tasks, parent, wanted.data_root)
    probes, probe_files = _read(wanted.probes, parent, wanted.data_root)
    twice = sorted({*further} & {*old.tasks})
    if twice or not further:
        raise SweepError(
            f"`--tasks` names {', '.join(twice) or 'nothing'}, and {parent.named} has learnt "
            f"{', '.join(old.tasks)}. Name a task that it has not learnt."
        )
    kept = [name for name in old.probes if name not in further]
    tasks = {
        name: at_data_root(parse_task(begun.task_files[name], name), wanted.data_root)
        for name in (*old.tasks, *kept)
    }
    document = old.model_dump(mode="json", exclude={"search", "finalists", "published"}) | {
        "name": wanted.name or _name(parent, [*further]),
        "model": _model(parent, wanted.base),
        "tasks": [*old.tasks, *further],
        "probes": [*kept, *(name for name in probes if name not in kept)],
        "extends": parent.extension().model_dump(mode="json"),
        "scoring": "full",
        "storage": str(storage),
        "search": _search(old, wanted) if wanted.select else None,
    }
    document["method"]["sequence"] = "in_order"
    if tracking_uri is not None:
        document["tracking"] = {"uri": tracking_uri}
    if wanted.executor is not None:
        document["resources"]["executor"] = wanted.executor
        if wanted.executor == "local":
            document["resources"]["workers"] = 1
            document["training"]["deepspeed"] = {}
    everything = {**tasks, **further, **probes}
    document |= _measurable(parent, document, everything)
    return complete_recorded(
        Experiment.model_validate(document),
        everything,
        text=yaml.safe_dump(document, sort_keys=False),
        origin=f"orchestrate extend {parent.named}",
        task_files={**files, **probe_files},
    )


def _read(
    names: Sequence[str], parent: Parent, data_root: Path | None
) -> tuple[dict[str, TaskSpec], dict[str, str]]:
    """Tasks by their names, and their files."""
    beside = Path(parent.state.origin).parent
    folders = [Path("experiments/tasks"), Path("tasks"), beside / "tasks", beside]
    found = [find_task_file(name, folders) for name in names]
    tasks = {task.name: at_data_root(task, data_root) for task in map(load_task, found)}
    return tasks, dict(zip(tasks, map(str, found), strict=False))


def _name(parent: Parent, tasks: Sequence[str]) -> str:
    words = f"{parent.folder.path.name}-then-{'-'.join(tasks)}"
    return re.sub(r"[^A-Za-z0-9_.-]", "-", words)[:80]


def _model(parent: Parent, base: Path | None) -> dict[str, Any]:
    """The base, where it is now."""
    place = {key: parent.state.base.get(key) for key in ModelSpec.model_fields}
    if base is not None:
        place |= {"name": str(base.resolve()), "revision": None, "gguf": None}
    return place | {"quantization": parent.experiment.model.quantization}


def _search(old: Experiment, wanted: Wanted) -> dict[str, Any]:
    """A search around the trial's settings, which are tried first."""
    centre = {"training.learning_rate": old.training.learning_rate, **dict(_knob(old))}
    space = {path: {"log_uniform": list(_around(path, v, old))} for path, v in centre.items()}
    budget = {"time_budget": wanted.time_budget} if wanted.time_budget else {"trials": TRIED}
    return {"space": space, "first": [centre], "searcher": "tpe", **budget}


def _knob(old: Experiment) -> Iterator[tuple[str, float]]:
    retention = old.method.retention
    for name in KNOBS:
        value = getattr(retention, name, None)
        # A pull does nothing beside a strength that is a number.
        idle = name == "pull" and getattr(retention, "strength", "auto") != "auto"
        if isinstance(value, int | float) and value > 0 and not idle:
            yield f"method.retention.{name}", float(value)
            return


def _around(path: str, value: float, old: Experiment) -> tuple[float, float]:
    low, high = value / AROUND, value * AROUND
    setting = RETENTIONS[old.method.retention.kind].settings.get(path.rsplit(".", 1)[-1])
    if path.startswith("method.") and isinstance(setting, Number) and setting.most is not None:
        high = min(high, float(setting.most))
    return low, high


def _measurable(
    parent: Parent, document: dict[str, Any], tasks: dict[str, TaskSpec]
) -> dict[str, Any]:
    """Objectives and the champion's rule, without measures that this sequence cannot have.

    What the trial was not scored on after its earlier tasks cannot be scored now.

    Args:
        parent: The trial.
        document: The longer sequence's experiment.
        tasks: Its tasks and probes.

    Returns:
        The fields `objectives` and `champion`.
    """
    known = parent.state.matrix(parent.record)
    assert known is not None, "a trial that was completed has a matrix"
    names: list[str] = document["tasks"]
    learnt, count = len(known.tasks), len(names)
    headed = tuple(tasks[name].has_head for name in names)
    rows = [
        [
            math.nan if headed[j] and j >= i
            else known.rows[i][j] if 0 < i < learnt and j < learnt
            else math.nan if 0 < i < learnt
            else 0.5
            for j in range(count)
        ]
        for i in range(count + 1)
    ]  # fmt: skip
    matrix = AccuracyMatrix(tuple(names), tuple(map(tuple, rows)), headed, learnt)
    probes = [
        ProbeReading("language_modelling", 1.0, 1.0), ProbeReading("choice", 0.9, 0.9, 0.1),
    ]  # fmt: skip
    found = measures(matrix, reference=[0.5] * count, probes=probes, cost_s=1.0, cost_tokens=1.0)
    rule = document["champion"]
    objectives = {n: d for n, d in document["objectives"].items() if math.isfinite(found[n])}
    limits = {n: v for n, v in rule["subject_to"].items() if math.isfinite(found[n])}
    chosen = rule["maximize"] if math.isfinite(found[rule["maximize"]]) else "gain"
    return {
        "objectives": objectives or {"gain": "max"},
        "champion": {**rule, "maximize": chosen, "subject_to": limits},
    }
