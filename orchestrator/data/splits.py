"""The three splits of a task: read, checked, and derived by hash where the source lacks one.

Which rows are held out depends on what they say and on nothing else: not on their order, and not
on other rows, so equal texts never stand on both sides and a source that grows keeps its splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.data.formats.placed_row import DataError, Row
from orchestrator.data.prompts import row_text
from orchestrator.data.sources.reading import place, split_names
from orchestrator.data.usable_rows import complete_rows, labelled_rows
from orchestrator.spec.task_kinds import LanguageModellingTask, TaskSpec
from orchestrator.system.wording import as_yaml, listed

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
        complete, lacking = complete_rows(task, rows, where, answers=split != "test")
        first_incomplete = first_incomplete or lacking
        if not complete:
            continue
        wanted = labelled_rows(task, complete, where)
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
        f"{{train: {as_yaml(there[0])}}}`."
    )


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
