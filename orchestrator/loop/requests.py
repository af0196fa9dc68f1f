"""The requests of a learning generator: what an engine is asked for."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.data.items import Example, Item
from orchestrator.data.prepared import PreparedTask
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport


@dataclass(frozen=True)
class BeginSequence:
    """Let the retention make room, and read the source sets that it has."""

    tasks: int
    sources: tuple[tuple[Example, ...], ...]


@dataclass(frozen=True)
class BeginTask:
    """Prepare for a task: fresh optimiser state and schedule.

    Answered with `Taken` where another trial has learnt the task alike, and its state is here now.
    """

    name: str
    index: int
    """Counted from 0."""
    steps: int
    examples: tuple[Example, ...] = ()
    """What will be learnt; some retentions look at a few before the first step."""


@dataclass(frozen=True)
class Taken:
    """What is taken over of a task that another trial has learnt alike."""

    steps: int
    """Optimiser steps that were taken in it."""
    tokens: int
    """Useful training tokens up to its end, as `StageReport.tokens`; so are `seconds`."""
    seconds: float
    source: str
    """The trial, for people."""
    report: StageReport | None = None
    """That of its end, which is the trial's own as well; None where other things are scored."""


@dataclass(frozen=True)
class TrainStep:
    """One optimiser step; answered with the mean loss per scored token."""

    examples: tuple[Example, ...]
    step: int
    """Counted from 0 within the task."""
    replayed: tuple[Example, ...] = ()
    """Examples of earlier tasks that the retention adds."""
    tokens: int = 0
    """Of the trial before this step."""
    held_out_best: float | None = None
    """As in `Start`, as is `held_out_waited`."""
    held_out_waited: int = 0
    losses: Sequence[float] = ()
    """Of the steps since the last report; it grows with the answer."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Look at examples that are not learnt; answered with their mean loss per scored token."""

    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Evaluate:
    """Score a task; answered with a `Score`."""

    task: PreparedTask
    limit: int | None = None
    """Number of validation examples; None for all."""

    @property
    def items(self) -> tuple[Item, ...]:
        """What is scored: the first `limit` validation examples."""
        return self.task.validation[: self.limit]


@dataclass(frozen=True)
class FitHeadOnly:
    """Fit a linear head to the frozen base; answered with its `Score` on the validation split."""

    task: PreparedTask


@dataclass(frozen=True)
class EndTask:
    """A task has been learnt; the retention takes in what it taught."""

    index: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Report:
    """Something to be recorded; a checkpoint belongs to it."""

    report: StageReport
    matrix: AccuracyMatrix
    whole: bool = False
    """Whether it is taken over with its losses and learning rates."""


Request: TypeAlias = (
    BeginSequence | BeginTask | TrainStep | HeldOutLoss | Evaluate | FitHeadOnly | EndTask | Report
)
Learning: TypeAlias = Generator[Request, Any, AccuracyMatrix]
