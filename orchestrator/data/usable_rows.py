"""Rows of a split that can be asked and answered, and have a label that stands for something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.data.formats.placed_row import DataError, Row, where_is
from orchestrator.data.row_values import RowReader, likely_path, question_columns
from orchestrator.spec.task_kinds import ClassificationTask, TaskSpec
from orchestrator.system.wording import as_yaml, suggestion


def complete_rows(
    task: TaskSpec, rows: Sequence[Row], where: str, *, answers: bool
) -> tuple[list[Row], str]:
    """Rows that can be asked and answered, and what the first of the others lacks, and where."""
    needed = question_columns(task)
    column = task.answer_from
    required = [*needed, column] if column is not None and answers else needed
    for name in required:
        if not any(name in row for row in rows):
            raise DataError(_lacks(task, name, rows[0], where_is(rows[0])))
    reader = RowReader(task)
    complete: list[Row] = []
    lacking = ""
    for row in rows:
        missing = reader.missing(row)
        if missing is None:
            complete.append(row)
        elif not lacking:
            lacking = f"{where_is(row)}, {missing}"
    if not complete and answers:
        raise DataError(
            f"{where}: none of its {len(rows)} rows is complete; the first: {lacking}. A row needs "
            f"{', '.join(required)}, none of them null, and an answer that is not empty or -1."
        )
    return complete, lacking


def _lacks(task: TaskSpec, name: str, row: Row, where: str) -> str:
    columns = sorted(map(str, row))
    other = columns[0] if columns else "other"
    path = likely_path(other, row.get(other), asks=name != task.answer_from) or other
    return (
        f"{where}: has no column {name!r}, which task {task.name!r} needs."
        f"{suggestion(name, columns)} Its columns: {', '.join(map(repr, columns))}. Map one to it "
        f"in `data.columns`, for example columns: {{{as_yaml(name)}: {as_yaml(path)}}}."
    )


def labelled_rows(task: TaskSpec, rows: list[Row], where: str) -> list[Row]:
    """Rows whose label stands for something; every label must be known."""
    if not isinstance(task, ClassificationTask):
        return rows
    values = [task.label_of(row[task.label_column]) for row in rows]
    unknown = Counter(value for value in values if value not in task.labels)
    if unknown:
        known = list(task.labels)
        shown = ", ".join(f"{value[:40]!r} ({count})" for value, count in unknown.most_common(5))
        more = f" and {len(unknown) - 5} others" if len(unknown) > 5 else ""
        first = next(row for row, value in zip(rows, values, strict=True) if value in unknown)
        raise DataError(
            f"{where}: {unknown.total()} of {len(rows)} rows have a label that `labels` of task "
            f"{task.name!r} does not list: {shown}{more}; the first is {where_is(first)}."
            f"{suggestion(next(iter(unknown)), known)} It lists {', '.join(map(repr, known))}. Add "
            "the missing ones; a label that stands for null leaves its rows out."
        )
    return [row for row, value in zip(rows, values, strict=True) if task.labels[value] is not None]
