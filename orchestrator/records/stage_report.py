"""What a trial reports at a rung or after a task, as a value and as a JSON document."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from orchestrator.records.event import named_once

DONE = 1.0
SERIES: dict[str, Any] = {
    "losses": (), "learning_rates": (), "per_example": None, "head_only_per_example": None,
    "probe_per_example": None,
}  # fmt: skip
"""What grows with steps and examples, and what stands for it where it is not kept."""


@dataclass(frozen=True)
class StageReport:
    """What a trial reports at a rung or after a task."""

    task: str
    task_index: int
    """Counted from 0; -1 for the untouched base."""
    step: int
    """Optimiser steps taken in this task."""
    steps: int
    """Optimiser steps of this task in all."""
    fraction: float
    """1/4, 1/2 or 1 of the task."""
    score: float
    """Score of the current task; NaN for the base, which has none."""
    loss: float | None = None
    """Mean training loss since the last report, nats per scored token."""
    learning_rate: float | None = None
    """Of the last step."""
    losses: tuple[float, ...] = ()
    """Loss of each step since the last report, six digits; the last is that of step `step`."""
    learning_rates: tuple[float, ...] = ()
    """Learning rate of each of those steps."""
    tokens: int = 0
    """Useful (unpadded) training tokens of the trial so far."""
    seconds: float = 0.0
    """Wall seconds of the trial so far, start-up excluded."""
    row: tuple[float, ...] | None = None
    """Scores of all tasks of the sequence, at the end of a task; NaN of those not scored."""
    probes: dict[str, dict[str, float]] | None = None
    held_out_best: float | None = None
    """Lowest loss on held-out examples within this task so far, where learning may stop early."""
    held_out_waited: int = 0
    """Looks at them in a row that were not lower."""
    strength: float | None = None
    """What multiplied the retention's penalty in this task, given or found; None without one."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Every metric of every task that was scored for this report."""
    per_example: dict[str, tuple[float, ...]] | None = None
    """Score of each validation example of what was just learnt; of all tasks after the last, and
    where not everything is scored. Within a task only where trials may be stopped early."""
    probe_per_example: dict[str, tuple[float, ...]] | None = None
    """The same of each example or window of each probe, where trials may be stopped early."""
    head_only: dict[str, dict[str, float]] | None = None
    """Of the untouched base: what a linear head on its hidden states scores, by classification
    task."""
    head_only_per_example: dict[str, tuple[float, ...]] | None = None
    """The same for each validation example."""
    examples: dict[str, int] | None = None
    """By task, how many of its first validation examples were scored; None in journals of earlier
    versions: all, at the end of a task."""

    taken_from: str | None = None
    """The trial whose training of this task is taken over, after its sweep where that is another;
    None where the trial has trained. Tokens and seconds are those of training all the same."""

    def as_document(self) -> dict[str, Any]:
        """The report as a JSON document."""
        document = asdict(self)
        if self.taken_from is None:
            del document["taken_from"]
        if self.probe_per_example is None:
            del document["probe_per_example"]
        return document

    @property
    def stage(self) -> tuple[int, float]:
        """Which of a trial's reports it is: the task's index, and how much of the task is done."""
        return (self.task_index, self.fraction)

    def without_series(self, *, examples: bool = False) -> Self:
        """The report without what grows with steps and examples, and is seldom read again.

        Args:
            examples: Whether the score of each example is kept.

        Returns:
            The same in all else.
        """
        series = ("losses", "learning_rates") if examples else tuple(SERIES)
        if not any(getattr(self, name) for name in series):
            return self
        return replace(self, **{name: SERIES[name] for name in series})

    def on_first(self, tasks: Sequence[str], counts: Mapping[str, int] | None) -> Self:
        """The same report on fewer examples.

        Args:
            tasks: The task sequence, in the order of `row`.
            counts: By task, how many of the first examples; None: all. Of a task that is not named,
                or has no more, or whose examples were not kept, everything stays.

        Returns:
            The report with other scores, those of each example and of the heads included.
        """
        if not counts:
            return self
        own = _first(self.per_example, counts)
        heads = _first(self.head_only_per_example, counts)
        row = [
            _mean(own[task]) if _is_shorter(task, own, self.per_example) else score
            for task, score in zip(tasks, self.row or (), strict=False)
        ]
        head_only = {
            task: {"accuracy": _mean(heads[task])}
            if _is_shorter(task, heads, self.head_only_per_example)
            else metrics
            for task, metrics in (self.head_only or {}).items()
        }
        return replace(
            self,
            row=None if self.row is None else tuple(row),
            per_example=own,
            head_only=None if self.head_only is None else head_only,
            head_only_per_example=heads,
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The report of `as_document`, JSON lists turned back into tuples.

        Args:
            document: Its JSON.

        Returns:
            The report; what another version did not write has its default, and what this one does
            not know is left out.
        """
        held: dict[str, Any] = {
            "task": "", "step": 0, "steps": 0, "fraction": DONE, "score": math.nan,
        }  # fmt: skip
        known = _names(cls)
        for name, value in document.items():
            if value is not None and name in known:
                held[name] = named_once(value) if type(value) is dict else value
        if "row" in held:
            held["row"] = tuple(math.nan if v is None else v for v in held["row"])
        for name in ("losses", "learning_rates"):
            held[name] = tuple(held.get(name, ()))
        for name in ("per_example", "head_only_per_example", "probe_per_example"):
            if name in held:
                held[name] = {sys.intern(k): tuple(v) for k, v in held[name].items()}
        return cls(**held)


@functools.cache
def _names(kind: type[StageReport]) -> frozenset[str]:
    return frozenset(each.name for each in fields(kind))


_Examples = Mapping[str, tuple[float, ...]]


def _first(scores: _Examples | None, counts: Mapping[str, int]) -> dict[str, tuple[float, ...]]:
    return {task: each[: counts.get(task)] for task, each in (scores or {}).items()}


def _is_shorter(task: str, short: _Examples, whole: _Examples | None) -> bool:
    return bool(short.get(task)) and len(short[task]) < len((whole or {}).get(task, ()))


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
