"""The three splits of a task: read, checked, and derived by hash where the source lacks one.

Which rows are held out depends on what they say and on nothing else: not on their order, and not
on other rows, so equal texts never stand on both sides and a source that grows keeps its splits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.encoding import row_text
from orchestrator.row_files import PlacedRow
from orchestrator.row_values import (
    RowReader,
    answer_column,
    label_value,
    likely_path,
    question_columns,
)
from orchestrator.sources import (
    DataError,
    Row,
    listed,
    place,
    source_sha256,
    split_names,
    where_is,
)
from orchestrator.tasks import (
    ClassificationTask,
    DataSource,
    LanguageModellingTask,
    TaskSpec,
    suggestion,
)

DERIVED_SHARE = 10
"""A derived split is one row in this many of train."""
DERIVED_ROWS = 1000
"""... and at most this many rows."""


@dataclass(frozen=True)
class Splits:
    """The rows of a task and where they came from."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    origins: dict[str, str]
    overlaps_removed: int
    """Rows of train that also stood in validation or test."""
    left_out: int
    """Rows whose label the task maps to null."""
    incomplete: int = 0
    """Rows left out for want of an answer or of a value that the prompt names."""
    first_incomplete: str = ""
    """Where the first of them stands, and what it lacks."""


def split_rows(task: TaskSpec, read: Callable[[str], list[Row] | None]) -> Splits:
    """Read the three splits of a task, deriving what the source lacks.

    A missing validation split is a hash-chosen tenth of train (at most 1,000 rows). A missing or
    unlabelled test split means that the public validation split becomes test and validation is
    cut from train; where train is all there is, test is another such tenth. Rows of train that
    also stand in validation or test are removed and counted.

    Args:
        task: The task.
        read: Gives the rows of a split of the source, or None.

    Returns:
        The splits.

    Raises:
        DataError: If a split lacks a column or has labels that the task does not know, or if there
            is nothing to measure the task on.
    """
    found: dict[str, list[Row]] = {}
    origins: dict[str, str] = {}
    left_out = incomplete = 0
    first_incomplete = ""
    for split, origin in task.splits.model_dump().items():
        rows = None if origin is None else read(origin)
        if origin is None or not rows:
            continue
        where = place(task.data, origin)
        complete, lacking = _complete(task, rows, where, answers=split != "test")
        first_incomplete = first_incomplete or lacking
        if not complete:
            continue
        wanted = _wanted(task, complete, where)
        incomplete += len(rows) - len(complete)
        left_out += len(complete) - len(wanted)
        if wanted:
            found[split], origins[split] = wanted, f"{origin} of the source"
    train = found.get("train", [])
    validation, test = found.get("validation"), found.get("test")
    if test is None and validation is None and train:
        test, train = _cut(task, train, "test")
        origins["test"] = "a tenth of train, chosen by hash"
    elif test is None and validation is not None and train:
        test, validation = validation, None
        origins["test"] = f"{task.splits.validation} of the source (it has no labelled test split)"
    if validation is None and train:
        validation, train = _cut(task, train, "validation")
        origins["validation"] = "a tenth of train, chosen by hash"
    if validation is None:
        validation, test = test, None
        origins["validation"] = origins.pop("test", "none")
    if not validation:
        raise DataError(
            f"Task {task.name!r}: no validation split and nothing to cut one from; "
            f"`splits` names {task.splits.model_dump()}, found {sorted(found) or 'nothing'} in "
            f"{task.data.files or task.data.hub}.{_splits_there(task)}"
        )
    held_out = {row_text(task, row) for row in (*validation, *(test or []))}
    kept = (
        train
        if isinstance(task, LanguageModellingTask)
        else [row for row in train if row_text(task, row) not in held_out]
    )
    return Splits(
        kept, validation, test or [], origins, len(train) - len(kept), left_out, incomplete,
        first_incomplete,
    )  # fmt: skip


def _splits_there(task: TaskSpec) -> str:
    """What a source of files has instead of the splits that are asked for."""
    there = [] if task.data.files is None else split_names(task.data)
    if not there:
        return ""
    return (
        f" It has {listed(there)}; say which is which, for example `data.split_names: "
        f"{{train: {there[0]}}}`."
    )


# --- which rows count ----------------------------------------------------------------------------


def _complete(
    task: TaskSpec, rows: Sequence[Row], where: str, *, answers: bool
) -> tuple[list[Row], str]:
    """Rows that can be asked and answered, and what the first of the others lacks, and where."""
    needed = question_columns(task)
    column = answer_column(task)
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
    path = likely_path(other, row.get(other), asks=name != answer_column(task)) or other
    return (
        f"{where}: has no column {name!r}, which task {task.name!r} needs."
        f"{suggestion(name, columns)} Its columns: {', '.join(map(repr, columns))}. Map one to it "
        f"in `data.columns`, for example columns: {{{name}: {path}}}."
    )


def _wanted(task: TaskSpec, rows: list[Row], where: str) -> list[Row]:
    """Rows whose label stands for something; every label must be known."""
    if not isinstance(task, ClassificationTask):
        return rows
    values = [label_value(task, row[task.label_column]) for row in rows]
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


# --- derived splits ------------------------------------------------------------------------------


def text_digest(text: str, purpose: str) -> int:
    """A number that depends on a text and on what it is wanted for, evenly spread."""
    return int(hashlib.sha1(f"{purpose}\0{text}".encode()).hexdigest()[:12], 16)


def _cut(task: TaskSpec, rows: list[Row], purpose: str) -> tuple[list[Row], list[Row]]:
    """A tenth of the rows, chosen by hash, and the rest."""
    chosen = _hashed_tenth(task, rows, purpose)
    inside = [row for row, is_in in zip(rows, chosen, strict=True) if is_in]
    rest = [row for row, is_in in zip(rows, chosen, strict=True) if not is_in]
    if not rest:
        raise DataError(
            f"Task {task.name!r}: {len(rows)} rows of train are too few (or too alike) to cut "
            f"{purpose} from. Bring more, or files of their own for validation and test."
        )
    return inside, rest


def _hashed_tenth(task: TaskSpec, rows: Sequence[Row], purpose: str) -> list[bool]:
    digests = [text_digest(row_text(task, row), purpose) for row in rows]
    inside = sorted(d for d in digests if d % DERIVED_SHARE == 0)
    if not inside:
        inside = sorted(digests)[: max(1, len(rows) // DERIVED_SHARE)]
    chosen = set(inside[:DERIVED_ROWS])
    return [digest in chosen for digest in digests]


# --- several tasks over one source ---------------------------------------------------------------


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
