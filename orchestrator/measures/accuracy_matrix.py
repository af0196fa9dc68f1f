"""The accuracy matrix of continual learning and the measures read from it.

`R[i, j]` is the score on task `j` after learning task `i` (tasks are counted from 1, row 0 is the
untouched base). Scores lie in [0, 1] and larger is better. NaN means "not measured" and spreads: a
measure that needs an unmeasured cell is NaN, never a silently smaller average.

References:
    Lopez-Paz and Ranzato (2017), Gradient Episodic Memory (ACC, BWT, FWT). arXiv 1706.08840
    Chaudhry et al. (2018), Riemannian Walk (forgetting, Sec. 2). arXiv 1801.10112
    Riemer et al. (2019), Learning to Learn without Forgetting (learning accuracy). arXiv 1810.11910
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

NOT_MEASURED = math.nan


def _mean(values: Iterable[float]) -> float:
    """The arithmetic mean; NaN of nothing."""
    collected = list(values)
    return sum(collected) / len(collected) if collected else NOT_MEASURED


def _nan_aware_max(values: Sequence[float]) -> float:
    """The maximum, NaN when any value is NaN (Python's `max` would depend on the order)."""
    return NOT_MEASURED if any(math.isnan(value) for value in values) else max(values)


@dataclass(frozen=True)
class AccuracyMatrix:
    """Scores of a task sequence, one row per learnt task, row 0 for the untouched base."""

    tasks: tuple[str, ...]
    """Task names in the order in which they are learnt."""
    rows: tuple[tuple[float, ...], ...]
    """`rows[i][j]`: score on task j + 1 after learning i tasks, in [0, 1] or NaN."""
    headed: tuple[bool, ...] = ()
    """Whether task j + 1 has a linear head, so that no score of it exists before it is learnt;
    empty stands for none."""
    inherited: int = 0
    """How many tasks another trial has learnt, which was not scored on those after them: they have
    no score in rows 1 to `inherited` - 1."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("An accuracy matrix needs at least one task, got none.")
        if len(self.rows) > len(self.tasks) + 1:
            raise ValueError(
                f"`rows` should be at most {len(self.tasks) + 1} (row 0 and one per task), "
                f"got {len(self.rows)}."
            )
        if self.headed and len(self.headed) != len(self.tasks):
            raise ValueError(
                f"`headed` should have one value per task ({len(self.tasks)}), "
                f"got {len(self.headed)}."
            )
        for number, row in enumerate(self.rows):
            if len(row) != len(self.tasks):
                raise ValueError(
                    f"Row {number} should have one score per task ({len(self.tasks)}), "
                    f"got {len(row)}."
                )

    @classmethod
    def empty(cls, tasks: Sequence[str]) -> AccuracyMatrix:
        """A matrix whose row 0 is not measured yet."""
        return cls(tuple(tasks), ((NOT_MEASURED,) * len(tasks),))

    @property
    def tasks_learnt(self) -> int:
        """How many tasks have been learnt, in [0, T]."""
        return len(self.rows) - 1

    @property
    def complete(self) -> bool:
        """Whether every task of the sequence has been learnt."""
        return self.tasks_learnt == len(self.tasks)

    def with_row(self, row: Sequence[float]) -> AccuracyMatrix:
        """The matrix after one more task."""
        return replace(self, rows=(*self.rows, tuple(row)))

    def with_base(self, row: Sequence[float]) -> AccuracyMatrix:
        """The same matrix with row 0 (the untouched base) filled in."""
        return replace(self, rows=(tuple(row), *self.rows[1:]))

    def first_row(self, task: int) -> int:
        """The first row in which a score of task `task` (counted from 0) can exist."""
        return task + 1 if self.headed and self.headed[task] else 0

    def can_hold(self, row: int, task: int) -> bool:
        """Whether a score of task `task` (counted from 0) can exist in a row."""
        unknown_then = 0 < row < self.inherited <= task
        return row >= self.first_row(task) and not unknown_then


def accuracy(matrix: AccuracyMatrix) -> float:
    """Mean final score over all tasks, in [0, 1] (ACC; Lopez-Paz and Ranzato 2017)."""
    return _mean(matrix.rows[-1]) if matrix.complete else NOT_MEASURED


def gain(matrix: AccuracyMatrix, reference: Sequence[float] | None = None) -> float:
    """`accuracy` minus that of the reference, in [-1, 1]: what learning was worth.

    Args:
        matrix: The matrix.
        reference: A score per task; None: row 0, the untouched base. A task with a linear head has
            no score there, and is compared with a head on the frozen base instead (head-only).

    Returns:
        The difference of the means.
    """
    return accuracy(matrix) - _mean(matrix.rows[0] if reference is None else reference)


def _drop_from_best(matrix: AccuracyMatrix, first_row: int | None) -> float:
    # `first_row` is the first row that may hold the best score; None stands for row j itself.
    if not matrix.complete:
        return NOT_MEASURED
    last = len(matrix.tasks)
    drops = [
        _nan_aware_max([matrix.rows[i][j] for i in range(start, last) if matrix.can_hold(i, j)])
        - matrix.rows[last][j]
        for j in range(last - 1)
        for start in (j + 1 if first_row is None else first_row,)
    ]
    # A sequence of one task has nothing to forget: 0, as an empty mean would hide the trial.
    return _mean(drops) if drops else 0.0


def forgetting(matrix: AccuracyMatrix) -> float:
    """Mean over j < T of max_{1 <= l < T} R[l, j] - R[T, j], in [-1, 1] (Chaudhry et al. 2018)."""
    # Rows in which a score cannot exist (a linear head before it is learnt) take no part, nor does
    # row 0. Negative when old tasks improve.
    return _drop_from_best(matrix, 1)


def forgetting_from_learned(matrix: AccuracyMatrix) -> float:
    """As `forgetting`, with l from j on: only what was lost after task j was learnt."""
    return _drop_from_best(matrix, None)


def forgetting_vs_base(matrix: AccuracyMatrix) -> float:
    """As `forgetting`, with row 0 included: what was lost of the base's own ability, too."""
    return _drop_from_best(matrix, 0)


def backward_transfer(matrix: AccuracyMatrix) -> float:
    """Mean over j < T of R[T, j] - R[j, j], in [-1, 1] (BWT; Lopez-Paz and Ranzato 2017)."""
    if not matrix.complete:
        return NOT_MEASURED
    last = len(matrix.tasks)
    return _mean(matrix.rows[last][j] - matrix.rows[j + 1][j] for j in range(last - 1))


def forward_transfer(matrix: AccuracyMatrix) -> float:
    """Mean over j >= 2 of R[j - 1, j] - R[0, j], in [-1, 1] (FWT; Lopez-Paz and Ranzato 2017)."""
    if not matrix.complete:
        return NOT_MEASURED
    return _mean(matrix.rows[j][j] - matrix.rows[0][j] for j in range(1, len(matrix.tasks)))


def learning_accuracy(matrix: AccuracyMatrix) -> float:
    """Mean over j of R[j, j], in [0, 1] (LA; Riemer et al. 2019)."""
    if not matrix.complete:
        return NOT_MEASURED
    return _mean(matrix.rows[j + 1][j] for j in range(len(matrix.tasks)))
