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
import string
import uuid
from collections.abc import Sequence

from orchestrator.data.formats.placed_row import DataError, Row, where_is
from orchestrator.data.sources.columns import paths_into
from orchestrator.spec.task_kinds import (
    ClassificationTask,
    GenerationTask,
    LanguageModellingTask,
    MultipleChoiceTask,
    TaskSpec,
)
from orchestrator.system.wording import cut

_TEXT = (
    str, int, float, decimal.Decimal, uuid.UUID,
    datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip
"""Types whose text is what people would write; the booleans are whole numbers to Python."""
_ASKING = {"user", "human", "question", "text", "prompt", "input", "instruction"}
_ANSWERING = {"assistant", "gpt", "model", "answer", "answers", "target", "output", "response"}


def answer_column(task: TaskSpec) -> str | None:
    """The column that holds what a row should be answered with; None for running text."""
    match task:
        case ClassificationTask():
            return task.label_column
        case MultipleChoiceTask():
            return task.answer_column
        case GenerationTask():
            return task.target_column
        case _:
            return None


def question_fields(task: TaskSpec) -> list[str]:
    """The columns that a prompt fills in, each once."""
    if isinstance(task, LanguageModellingTask):
        return [task.text_column]
    names = [name for _, name, _, _ in string.Formatter().parse(task.prompt) if name]
    return list(dict.fromkeys(names))


def question_columns(task: TaskSpec) -> list[str]:
    """The columns that a row needs before it can be asked, each once."""
    names = question_fields(task)
    if isinstance(task, MultipleChoiceTask):
        names.append(task.choices_column)
    return list(dict.fromkeys(names))


class RowReader:
    """Tells of each row of a task what is missing in it."""

    def __init__(self, task: TaskSpec) -> None:
        """Prepare for many rows.

        Args:
            task: The task.
        """
        self._task = task
        self._fields = question_fields(task)
        self._answer = answer_column(task)

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
        if isinstance(self._task, MultipleChoiceTask):
            lacking = self._missing_choice(row, self._task.choices_column)
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
        lacking = f"`{column}` is missing"
        if value is None:
            return lacking
        check_text(value, column, row, self._task, asks=False)
        if isinstance(self._task, GenerationTask):
            return lacking if isinstance(value, str) and not value.strip() else None
        if isinstance(self._task, ClassificationTask) and label_value(self._task, value) in \
                self._task.labels:  # fmt: skip
            return None
        names = row.get("answer_labels")
        if isinstance(names, list | tuple) and value in names:
            return None
        # Public test sets carry such values instead of answers.
        return f"`{column}` is {value!r}" if value in (-1, "-1", "") else None


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
            f" Take a part of it in `data.columns`, for example columns: {{text: {path}}}, and "
            "write {text} in the prompt."
        )
    fields = {ClassificationTask: "label", MultipleChoiceTask: "answer"}
    name = fields.get(type(task), "target")
    also = "" if answer_column(task) == name else f", with {name}_column: {name}"
    return f" Take a part of it in `data.columns`, for example columns: {{{name}: {path}}}{also}."


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


def label_value(task: ClassificationTask, value: object) -> str:
    """The text under which a label stands in `labels`.

    Args:
        task: The task.
        value: What the row has: 1, 1.0 and true are found as 1 and true as well, because programs
            that know of missing values write whole numbers as 1.0, and JSON writes true.

    Returns:
        A key of `labels` where there is one, else the value's own text.
    """
    text = str(value)
    if text in task.labels or isinstance(value, str):
        return text
    others: Sequence[str] = ()
    if isinstance(value, bool):
        others = (text.lower(), str(int(value)))
    elif isinstance(value, float) and value.is_integer():
        others = (str(int(value)),)
    return next((other for other in others if other in task.labels), text)
