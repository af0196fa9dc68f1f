"""What every trial is compared with: zero-shot, majority class, head-only.

A control's score on each validation example is known, so that the difference to a trial's is
paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from orchestrator.batches import PreparedTask
from orchestrator.continual_loop import StageReport
from orchestrator.encoding import Question
from orchestrator.objectives import Interval, gain_interval
from orchestrator.tasks import ClassificationTask


def bounds(interval: Interval | None) -> list[float] | None:
    """An interval as the journal holds it."""
    return None if interval is None else [interval.low, interval.high]


class Controls:
    """The controls of one sweep."""

    def __init__(self, tasks: Sequence[PreparedTask], base: StageReport) -> None:
        """Read the controls.

        Args:
            tasks: The task sequence.
            base: The report of the untouched base.
        """
        self._tasks = tasks
        self._base = base

    @property
    def reference_row(self) -> list[float]:
        """What `gain` is measured against: zero-shot, or head-only for a task with a head."""
        if self._base.row is None:
            raise AssertionError("the base's report has a row")
        heads = self._base.head_only or {}
        return [
            heads.get(task.name, {}).get("accuracy", math.nan) if task.has_head else score
            for task, score in zip(self._tasks, self._base.row, strict=True)
        ]

    @property
    def reference_name(self) -> str:
        """The reference in words."""
        headed = {task.has_head for task in self._tasks}
        if headed == {True}:
            return "a head on the untouched base (head-only)"
        return "the untouched base" if headed == {False} else "zero-shot and head-only"

    @property
    def reference_examples(self) -> dict[str, Sequence[float]]:
        """The same for each validation example, by task."""
        zero_shot = self._base.per_example or {}
        heads = self._base.head_only_per_example or {}
        return {
            task.name: (heads if task.has_head else zero_shot).get(task.name, ())
            for task in self._tasks
        }

    @property
    def majority_examples(self) -> dict[str, Sequence[float]]:
        """What always saying the commonest label of train scores on each example."""
        return {
            task.name: [
                float(q.answer == task.labels.index(task.facts["majority_label"]))
                for q in task.validation
                if isinstance(q, Question)
            ]
            for task in self._tasks
            if isinstance(task.spec, ClassificationTask)
        }

    def interval(
        self,
        mine: Mapping[str, Sequence[float]] | None,
        control: Mapping[str, Sequence[float]] | None,
    ) -> Interval | None:
        """The paired interval of the mean difference over the tasks that both sides have.

        Args:
            mine: Score of each validation example, by task.
            control: The same of the other side.

        Returns:
            The interval; None when no task is on both sides.
        """
        if mine is None or control is None:
            return None
        names = [t.name for t in self._tasks if mine.get(t.name) and control.get(t.name)]
        if not names:
            return None
        return gain_interval([mine[n] for n in names], [control[n] for n in names])

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
