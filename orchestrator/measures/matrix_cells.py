"""Which cells of the accuracy matrix a measure is computed from.

A cell (i, j) is `AccuracyMatrix.rows[i][j]`: the score on the task with index j (from 0) once i
tasks have been learnt. Row 0, the untouched base, is always measured and is no cell here.
"""

from __future__ import annotations

from typing import TypeAlias

Cell: TypeAlias = tuple[int, int]
Cells: TypeAlias = frozenset[Cell]


def every_cell(tasks: int) -> Cells:
    """Every cell of a sequence of so many tasks."""
    return frozenset((i, j) for i in range(1, tasks + 1) for j in range(tasks))


def no_cell(tasks: int) -> Cells:
    """None of them."""
    del tasks
    return frozenset()


def last_row(tasks: int) -> Cells:
    """All tasks, once all are learnt."""
    return frozenset((tasks, j) for j in range(tasks))


def diagonal(tasks: int) -> Cells:
    """Each task when it has just been learnt."""
    return frozenset((j + 1, j) for j in range(tasks))


def learnt_cells(tasks: int) -> Cells:
    """Each task from when it has been learnt."""
    return frozenset((i, j) for i, j in every_cell(tasks) if j < i)


def superdiagonal(tasks: int) -> Cells:
    """Each task but the first just before it is learnt."""
    return frozenset((j, j) for j in range(1, tasks))


def all_but_last_column(tasks: int) -> Cells:
    """Every task but the last, after each task."""
    return frozenset((i, j) for i, j in every_cell(tasks) if j < tasks - 1)


def from_learnt_on(tasks: int) -> Cells:
    """Every task but the last, from when it has been learnt."""
    return learnt_cells(tasks) & all_but_last_column(tasks)


def diagonal_and_last(tasks: int) -> Cells:
    """Every task but the last when it has just been learnt, and at the end."""
    own = diagonal(tasks) | last_row(tasks)
    return frozenset((i, j) for i, j in own if j < tasks - 1)
