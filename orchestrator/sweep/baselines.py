"""What every trial is compared with: zero-shot, majority class, head-only.

A control's score on each validation example is known, so that the difference to a trial's is
paired.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.data.items import Question
from orchestrator.data.prepared import PreparedTask
from orchestrator.measures.intervals import Interval, RunError, gain_interval, joint_intervals
from orchestrator.records.stage_report import StageReport


def bounds(interval: Interval | None) -> list[float] | None:
    """An interval as the journal holds it; None where it is not known or says nothing."""
    if interval is None or not math.isfinite(interval.high - interval.low):
        return None
    return [interval.low, interval.high]


@dataclass(frozen=True)
class Inherited:
    """What the trial that a sweep goes on from scores, before anything more is learnt."""

    name: str
    """Which it is, in words."""
    report: StageReport


class Controls:
    """The controls of one sweep."""

    def __init__(
        self,
        tasks: Sequence[PreparedTask],
        base: StageReport,
        split: Literal["validation", "test"] = "validation",
        counts: Mapping[str, int] | None = None,
        inherited: Inherited | None = None,
    ) -> None:
        """Read the controls.

        Args:
            tasks: The task sequence.
            base: The report of the untouched base.
            split: On which examples it was made.
            counts: By task, on how many of its first examples controls are compared; None: all.
            inherited: What `gain` is measured against where trials go on from another one; None:
                the base.
        """
        self._tasks = tasks
        self._base = base.on_first([task.name for task in tasks], counts)
        self._counts = counts or {}
        self._inherited = inherited
        self._split: Literal["validation", "test"] = split

    @property
    def reference_row(self) -> list[float]:
        """What `gain` is measured against: zero-shot, or head-only for a task with a head."""
        if self._base.row is None:
            raise AssertionError("the base's report has a row")
        row = [
            head if task.has_head else score
            for task, head, score in zip(
                self._tasks, self.head_only_row, self._base.row, strict=True
            )
        ]
        if self._inherited is None:
            return row
        names = [task.name for task in self._tasks]
        own = self._inherited.report.on_first(names, self._counts).row or ()
        # A head that it had not trained says nothing.
        return [mine if math.isfinite(mine) else s for mine, s in zip(own, row, strict=True)]

    @property
    def majority_row(self) -> list[float]:
        """What always saying the commonest label of train scores on each task."""
        return [
            statistics.fmean(scores)
            if (scores := self.majority_examples.get(task.name))
            else math.nan
            for task in self._tasks
        ]

    @property
    def head_only_row(self) -> list[float]:
        """What head-only scores on each task; NaN where there is none."""
        heads = self._base.head_only or {}
        return [number_of(heads.get(task.name, {}).get("accuracy")) for task in self._tasks]

    @property
    def reference_name(self) -> str:
        """The reference in words."""
        if self._inherited is not None:
            return self._inherited.name
        headed = {task.has_head for task in self._tasks}
        if headed == {True}:
            return "a head on the untouched base (head-only)"
        return "the untouched base" if headed == {False} else "zero-shot and head-only"

    @property
    def reference_examples(self) -> dict[str, Sequence[float]]:
        """The same for each validation example, by task."""
        zero_shot = self._base.per_example or {}
        heads = self._base.head_only_per_example or {}
        own = (self._inherited.report.per_example or {}) if self._inherited is not None else {}
        return {
            task.name: own[task.name][: self._counts.get(task.name)]
            if own.get(task.name)
            else (heads if task.has_head else zero_shot).get(task.name, ())
            for task in self._tasks
        }

    @property
    def majority_examples(self) -> dict[str, Sequence[float]]:
        """What always saying the commonest label of train scores on each example."""
        return {
            task.name: [
                float(q.answer == task.labels.index(task.facts["majority_label"]))
                for q in getattr(task, self._split)[: self._counts.get(task.name)]
                if isinstance(q, Question)
            ]
            for task in self._tasks
            if task.labels
        }

    def interval(
        self,
        mine: Mapping[str, Sequence[float]] | None,
        control: Mapping[str, Sequence[float]] | None,
        runs: RunError | None = None,
    ) -> Interval | None:
        """The paired interval of the mean difference over all tasks.

        Args:
            mine: Score of each example, by task.
            control: The same of the other side.
            runs: What seeds and orders leave in the difference.

        Returns:
            The interval; None where a task is missing on a side, since the mean of the others is
            not the number that stands beside it.
        """
        sides = [self._whole(mine), self._whole(control)]
        known = [side for side in sides if side is not None]
        return gain_interval(known[0], known[1], runs=runs) if len(known) == len(sides) else None

    def joint_intervals(
        self,
        finals: Mapping[str, Mapping[str, Sequence[float]]],
        *,
        others: int = 0,
        runs: Mapping[str, RunError] | None = None,
    ) -> dict[str, Interval]:
        """The intervals of `gain` of several trials, which hold all at once.

        Args:
            finals: By trial, the final score of each example, by task.
            others: Further trials that were looked at and stopped.
            runs: See `intervals.joint_intervals`.

        Returns:
            An interval for each trial that was scored on all tasks; the others count as looked at.
        """
        reference = self._whole(self.reference_examples)
        whole = {name: self._whole(final) for name, final in finals.items()}
        known = {name: final for name, final in whole.items() if final is not None}
        if reference is None:
            return {}
        return joint_intervals(
            known, reference, others=others + len(finals) - len(known), runs=runs
        )

    def _whole(self, side: Mapping[str, Sequence[float]] | None) -> list[Sequence[float]] | None:
        """The scores of all tasks in order; None where one is missing."""
        found = [(side or {}).get(task.name, ()) for task in self._tasks]
        return found if all(found) else None

    def intervals(
        self, mine: Mapping[str, Sequence[float]] | None
    ) -> dict[str, list[float] | None]:
        """The paired interval over each control.

        Args:
            mine: Final score of each validation example, by task.

        Returns:
            Bounds by control: `zero_shot`, `majority`, `head_only`.
        """
        sides = {
            "zero_shot": self._base.per_example,
            "majority": self.majority_examples,
            "head_only": self._base.head_only_per_example,
        }
        return {name: bounds(self.interval(mine, side)) for name, side in sides.items()}


def number_of(value: float | None) -> float:
    """A number of the journal, NaN where it was not measured."""
    return math.nan if value is None else value
