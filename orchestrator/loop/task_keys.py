"""What the state of a trial after each of its tasks follows from, as hashes.

Two trials with the same hash after a task have learnt it, and all before it, alike: one of them can
go on from the other's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.data.prepared import PreparedData, PreparedTask
from orchestrator.loop.task_sequence import Stage, TaskSequence, keeps_adapters, task_sequence
from orchestrator.spec.adapter_settings import AdapterWithText
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.retention_settings import RetentionWithSources, retention_options
from orchestrator.spec.task_kinds import computed_fields
from orchestrator.system.strict_json import fingerprint


@dataclass(frozen=True)
class TaskKeys:
    """Hashes of what a trial's work follows from, one for each of its tasks; or none at all."""

    learnt: tuple[str, ...] = ()
    """Of the trained tensors at the end of each task, before the retention has taken it in."""
    scored: tuple[str, ...] = ()
    """Of what is scored while each task is learnt and after it."""

    def shared_with(self, other: TaskKeys) -> int:
        """How many tasks both begin with and learn alike."""
        pairs = zip(self.learnt, other.learnt, strict=False)
        return next(
            (n for n, (a, b) in enumerate(pairs) if a != b),
            min(len(self.learnt), len(other.learnt)),
        )


def task_keys(
    experiment: Experiment, data: PreparedData, follows_from: Mapping[str, Any]
) -> TaskKeys:
    """The hashes of a trial.

    A retention enters those of the first task by what acts then (`RetentionKind.first_task`), and
    those of later tasks as a whole.

    Args:
        experiment: The trial's, overrides applied.
        data: Its tasks and probes.
        follows_from: Base, code, packages, executor: all else that numbers follow from.

    Returns:
        The hashes; none where the state after a task is not kept: of what learns all tasks at once,
        of what goes on from another sweep's trial, of an adapter as large as the base, and of a
        retention that does not say what acts when.
    """
    method = experiment.method
    first_task = RETENTIONS[method.retention.kind].first_task
    apart = method.sequence == "joint" or experiment.extends is not None
    if apart or first_task is None or not keeps_adapters(experiment):
        return TaskKeys()
    sequence = task_sequence(experiment, data)
    alike = {
        "follows_from": dict(follows_from),
        "workers": [experiment.resources.workers, experiment.resources.cpus_per_worker],
        "adapter": method.adapter.model_dump(mode="json"),
        "text": [data.hashes[str(method.adapter.source)]]
        if isinstance(method.adapter, AdapterWithText)
        else [],
        "training": experiment.training.model_dump(mode="json"),
        "early_stopping": method.model_dump(mode="json")["early_stopping"],
        # All heads of a sequence are made at its start.
        "heads": [[task.name, list(task.labels)] for task in sequence.tasks if task.has_head],
    }
    learnt = [
        fingerprint({
            **alike,
            "retention": _acting(experiment, data, before=stage.index),
            "tasks": [
                [task.name, data.hashes[task.name]] for task in sequence.tasks[: stage.index + 1]
            ],
        })
        for stage in sequence.stages
    ]  # fmt: skip
    scored = [fingerprint(_scored(sequence, stage, data)) for stage in sequence.stages]
    return TaskKeys(tuple(learnt), tuple(scored))


def _acting(experiment: Experiment, data: PreparedData, *, before: int) -> Any:
    """What of a retention acts up to the end of a task that has so many before it."""
    spec = experiment.method.retention
    kind = RETENTIONS[spec.kind]
    settings = kind.complete(retention_options(spec, experiment.training.seed))
    if before == 0 and kind.first_task is not None:
        settings = kind.first_task(settings)
        if not settings:
            return None
    sources = spec.sources if isinstance(spec, RetentionWithSources) else ()
    return [spec.kind, settings, [data.hashes[name] for name in sources]]


def _scored(sequence: TaskSequence, stage: Stage, data: PreparedData) -> Any:
    """What the reports of a task are scores of."""

    def of(task: PreparedTask, limit: int | None = None) -> list[Any]:
        return [task.name, data.hashes[task.name], computed_fields(task.spec), limit]

    learnt = stage.index + 1
    whole = learnt == len(sequence.tasks) or sequence.scored.cells is not None
    return {
        "tasks": sorted(of(*asked) for asked in sequence.tasks_after(learnt)),
        "probes": sorted(of(probe) for probe in sequence.probes_after(learnt)),
        "on_the_way": sequence.examples_at_rungs,
        "single_examples_of": "all" if whole else "the task",
        "at_rungs": sequence.raced,
    }
