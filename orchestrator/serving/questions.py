"""The rows that a model is asked about: from the command line, or from a file as a task's data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.data.formats.placed_row import DataError, PlacedRow, Row, where_is
from orchestrator.data.row_values import RowReader, question_columns
from orchestrator.data.sources.columns import canonical_row
from orchestrator.data.sources.reading import read_split
from orchestrator.records.mlflow.signature import probability_column
from orchestrator.serving.find import ModelUseError
from orchestrator.spec.task_kinds import DataSource, PromptedTask, TaskSpec
from orchestrator.system.strict_json import half_character
from orchestrator.system.user_error import UsageError
from orchestrator.system.wording import cut, suggestion

PREDICTION = "prediction"
"""The column of the answer in a file of predictions."""


def read_rows(
    source: Path, name: str, task: TaskSpec
) -> tuple[list[Row], list[dict[str, Any] | None]]:
    """The rows of a file, as they stand there and as a task asks them.

    Args:
        source: A file ending in .csv, .tsv, .jsonl (each also with .gz) or .parquet.
        name: The task's name, for messages.
        task: The task. Its columns are looked for under its own names, then under those that its
            data source gives them.

    Returns:
        The rows as read, and what is asked, one for one; None for a row that lacks something of
        the question.

    Raises:
        ModelUseError: If no row has a column that is asked for, or one has a column that the
            answer would need.
    """
    rows = read_split(DataSource(files=str(source)), "train") or []
    wanted = question_columns(task)
    reader = RowReader(task)
    asked: list[dict[str, Any] | None] = []
    for row in rows:
        where = where_is(row)
        taken = [c for c in row if c == PREDICTION or c.startswith(probability_column(""))]
        if taken:
            raise ModelUseError(
                f"{where} has a column {taken[0]!r} already, and the answers are written under "
                f"such names ({PREDICTION}, {probability_column('LABEL')}). Rename it."
            )
        question = _question(row, wanted, task)
        placed = row.with_values(question) if isinstance(row, PlacedRow) else question
        asked.append(None if reader.missing(placed, answers=False) else question)
    if rows and not any(asked):
        question = _question(rows[0], wanted, task)
        for column in wanted:
            if question[column] is None and not any(column in row for row in rows):
                raise ModelUseError(_no_column(rows[0], column, name))
    return rows, asked


def _question(row: Row, wanted: Sequence[str], task: TaskSpec) -> dict[str, Any]:
    """The columns of a question, under the task's names or its source's; None for missing ones."""
    found: dict[str, Any] = {}
    for column in wanted:
        if column in row:
            found[column] = row[column]
        else:
            mapped = {column: task.data.columns[column]} if column in task.data.columns else {}
            with suppress(DataError):  # what is not there under either name is missing
                found[column] = canonical_row(row, mapped, task.data.constants).get(column)
    found = {column: found.get(column) for column in wanted}
    for column in task.choice_columns:
        if found[column] is not None:
            found[column] = _choices(found[column], where_is(row))
    return found


def _no_column(row: Row, column: str, name: str) -> str:
    known = [str(column) for column in row]
    return (
        f"{where_is(row)} has no column {column!r}, which the task {name!r} reads, nor has any "
        f"other row.{suggestion(column, known)} Its columns: {', '.join(known)}."
    )


def _choices(value: Any, where: str) -> list[Any]:
    """A list of choices; in a CSV file it is written as JSON."""
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):
            value = json.loads(value)
    if not isinstance(value, list) or len(value) < 2:
        raise ModelUseError(
            f"{where}: the choices should be a list of at least two, in a CSV file written as "
            f"""JSON such as ["a cat", "a dog"]; got {value!r}."""
        )
    return value


def task_name(tasks: Mapping[str, TaskSpec], wanted: str | None) -> str:
    """The task that is asked: the wanted one, or the only one that can be."""
    names = [name for name, task in tasks.items() if isinstance(task, PromptedTask)]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        hint = suggestion(wanted, names) if wanted else ""
        got = f", got {wanted!r}" if wanted else ""
        raise UsageError(f"`--task` should be one of {', '.join(names) or 'none'}{got}.{hint}")
    return wanted


def task_rows(task: TaskSpec, texts: list[str], columns: list[str]) -> list[dict[str, Any]]:
    """The rows that texts and `--column` options stand for.

    Args:
        task: The task.
        texts: Texts of the one column that no option gives.
        columns: Options as `NAME=VALUE`; a list of choices is written as JSON.

    Returns:
        One row for each text, or a single one when every column was given.

    Raises:
        UsageError: If a column is unknown or missing, or a text is not UTF-8.
    """
    for number, text in enumerate([*texts, *columns], start=1):
        if half_character(text) is not None:
            shown = cut(text)
            raise UsageError(
                f"Text {number} of the command, {shown!r}, is not UTF-8. Write it in UTF-8, or "
                "give a file with `--input`."
            )
    wanted = question_columns(task)
    given = dict(_column(option, wanted, task) for option in columns)
    free = [name for name in wanted if name not in given]
    if not free:
        if texts:
            raise UsageError("Every column was given with `--column`; leave the texts out.")
        return [given]
    if len(free) > 1:
        options = " ".join(f"--column {name}=..." for name in free[1:])
        raise UsageError(f"The task reads the columns {', '.join(wanted)}. Give {options} as well.")
    if not texts:
        raise UsageError(f"There is nothing to answer: give a text for the column {free[0]!r}.")
    return [given | {free[0]: text} for text in texts]


def _column(option: str, wanted: list[str], task: TaskSpec) -> tuple[str, Any]:
    name, equals, text = option.partition("=")
    if not equals or name not in wanted:
        raise UsageError(
            f"`--column` should be NAME=VALUE with a name among {', '.join(wanted)}, "
            f"got {option!r}.{suggestion(name, wanted)}"
        )
    if name not in task.choice_columns:
        return name, text
    try:
        choices = json.loads(text)
    except json.JSONDecodeError:
        choices = None
    if not isinstance(choices, list) or len(choices) < 2:
        raise UsageError(
            f"`--column {name}` should be a JSON list of at least two choices, for example "
            f"""'{name}=["a cat", "a dog"]', got {text!r}."""
        )
    return name, choices
