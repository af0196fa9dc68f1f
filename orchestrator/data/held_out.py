"""Rows that other tasks over the same source hold out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from orchestrator.data.formats.placed_row import PlacedRow, Row, where_is
from orchestrator.data.row_values import question_columns
from orchestrator.data.sources.reading import source_sha256
from orchestrator.data.splits import split_rows
from orchestrator.spec.task_kinds import DataSource, TaskSpec


def held_by_others(
    tasks: Mapping[str, TaskSpec], read: Callable[[DataSource, str], list[Row] | None]
) -> dict[str, frozenset[str]]:
    """What other tasks of an experiment hold out of the same source.

    Derived splits are chosen by what a prompt says, so two prompts over one source choose
    different rows, and what one task learns may be what another is measured on.

    Args:
        tasks: The tasks and probes, by name.
        read: Gives the rows of a split of a source, or None.

    Returns:
        For each task that shares its source with another, the marks (see `row_marks`) of the rows
        of validation and test of the others. Tasks with a source of their own are not read.
    """
    by_source: dict[str, list[str]] = {}
    for name, task in tasks.items():
        by_source.setdefault(_source(task.data), []).append(name)
    found: dict[str, frozenset[str]] = {}
    for names in by_source.values():
        if len(names) < 2:
            continue
        held: dict[str, set[str]] = {}
        for name in names:
            task = tasks[name]
            splits = split_rows(task, lambda split, data=task.data: read(data, split))
            held[name] = {
                mark for row in (*splits.validation, *splits.test) for mark in row_marks(task, row)
            }
        for name in names:
            others = (marks for other, marks in held.items() if other != name)
            found[name] = frozenset[str]().union(*others)
    return found


def row_marks(task: TaskSpec, row: Row) -> tuple[str, ...]:
    """What tells a row from others under any task: what it says, and where it stands.

    Args:
        task: The task.
        row: One row with canonical column names.

    Returns:
        A digest of the values that are asked, whatever prompt and names of columns they have, and
        the row's place where it is known.
    """
    values = sorted(str(row.get(column)) for column in question_columns(task))
    said = hashlib.sha1("\0".join(values).encode("utf-8", "surrogatepass")).hexdigest()
    placed = isinstance(row, PlacedRow) and row.file
    return (said, where_is(row)) if placed else (said,)


def _source(data: DataSource) -> str:
    """Equal for sources that hold the same rows: copies of files as well."""
    return source_sha256(data) or f"{data.hub}/{data.config}/{data.revision}/{data.files}"
