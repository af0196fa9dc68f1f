"""What a task reads of a row: whether it is there, and whether it can be read as text at all.

Missing is missing in every format: null, a key or a place in a list that a row lacks, NaN, and a
question with nothing in it. Such rows are left out and counted. What cannot be read as text (a list
of chat turns, bytes, an infinite number) is refused, because Python's way to write it would be
learnt instead.
"""

from __future__ import annotations

import datetime
import decimal
import math
import uuid

from orchestrator.data.formats.placed_row import DataError, Row, where_is
from orchestrator.data.sources.columns import paths_into
from orchestrator.spec.task_kinds import LanguageModellingTask, TaskSpec
from orchestrator.system.wording import as_yaml, cut

_TEXT = (
    str, int, float, decimal.Decimal, uuid.UUID,
    datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip
"""Types whose text is what people would write; the booleans are whole numbers to Python."""
_ASKING = {"user", "human", "question", "text", "prompt", "input", "instruction"}
_ANSWERING = {"assistant", "gpt", "model", "answer", "answers", "target", "output", "response"}


def question_columns(task: TaskSpec) -> list[str]:
    """The columns that a row needs before it can be asked, each once."""
    return list(dict.fromkeys([*task.asked_columns, *task.choice_columns]))


class RowReader:
    """Tells of each row of a task what is missing in it."""

    def __init__(self, task: TaskSpec) -> None:
        """Prepare for many rows.

        Args:
            task: The task.
        """
        self._task = task
        self._fields = task.asked_columns
        self._answer = task.answer_from

    def missing(self, row: Row, *, answers: bool = True) -> str | None:
        """What a row lacks to be asked and answered.

        Args:
            row: The row, with canonical column names.
            answers: Whether it must have an answer.

        Returns:
            Such as "`text` is missing"; None where nothing is.

        Raises:
            DataError: If something is there and cannot be read as text.
        """
        said = False
        for field in self._fields:
            value = row.get(field)
            if value is None:
                return f"`{field}` is missing"
            if type(value) is str:
                said = said or not (not value or value.isspace())
            else:
                check_text(value, field, row, self._task, asks=True)
                said = True
        if not said and not isinstance(self._task, LanguageModellingTask):
            return f"the question is empty ({', '.join(self._fields)})"
        for column in self._task.choice_columns:
            lacking = self._missing_choice(row, column)
            if lacking is not None:
                return lacking
        if self._answer is None or not answers:
            return None
        return self._missing_answer(row, self._answer)

    def _missing_choice(self, row: Row, column: str) -> str | None:
        choices = row.get(column)
        if choices is None:
            return f"`{column}` is missing"
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise DataError(
                f"{where_is(row)}: `{column}` of task {self._task.name!r} must hold at least two "
                f"choices, got {cut(repr(choices))}."
            )
        for number, choice in enumerate(choices):
            if choice is None:
                return f"choice {number + 1} of `{column}` is missing"
            if type(choice) is not str:
                check_text(choice, f"{column}.{number}", row, self._task, asks=True)
        return None

    def _missing_answer(self, row: Row, column: str) -> str | None:
        value = row.get(column)
        if value is None:
            return f"`{column}` is missing"
        check_text(value, column, row, self._task, asks=False)
        lacking = self._task.lacks_answer(value, row)
        return lacking and f"`{column}` {lacking}"


def check_text(value: object, field: str, row: Row, task: TaskSpec, *, asks: bool) -> None:
    """Refuse a value that has no text that people would write.

    Args:
        value: The value, not None.
        field: The column, or the way into it.
        row: The row.
        task: The task.
        asks: Whether it is part of the question, rather than the answer.

    Raises:
        DataError: If it is a structure, bytes, an infinite number or anything else.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(
            f"{where_is(row)}: `{field}`, which task {task.name!r} reads, is {value}. Write a "
            "number, or null where there is none."
        )
    if isinstance(value, _TEXT):
        return
    kind = "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
    kind = "an object" if isinstance(value, dict) else kind
    column = field if field in row else field.split(".", maxsplit=1)[0]
    raise DataError(
        f"{where_is(row)}: `{field}`, which task {task.name!r} reads as text, holds {kind}: "
        f"{cut(repr(value))}.{_cure(column, row.get(column), task, asks=asks)}"
    )


def _cure(column: str, value: object, task: TaskSpec, *, asks: bool) -> str:
    path = likely_path(column, value, asks=asks)
    if path is None:
        return "" if isinstance(value, str) else " Write it as text."
    if asks:
        return (
            " Take a part of it in `data.columns`, for example columns: "
            f"{{text: {as_yaml(path)}}}, and write {{text}} in the prompt."
        )
    option = task.answer_option
    name = option.removesuffix("_column") if option else str(task.answer_from)
    also = "" if task.answer_from == name else f", with {option}: {name}"
    return (
        " Take a part of it in `data.columns`, for example columns: "
        f"{{{as_yaml(name)}: {as_yaml(path)}}}{also}."
    )


def likely_path(column: str, value: object, *, asks: bool) -> str | None:
    """The path into a structured column that is most likely meant.

    Args:
        column: The column.
        value: What it holds.
        asks: Whether the question is wanted, rather than the answer.

    Returns:
        Such as `messages.user.content`; None where the value has no parts.
    """
    paths = paths_into(column, value)
    meant = _ASKING if asks else _ANSWERING
    return next((path for path in paths if meant & set(path.split("."))), next(iter(paths), None))
