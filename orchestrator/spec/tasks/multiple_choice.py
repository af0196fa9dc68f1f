"""Multiple choice: one of a row's own choices."""

from __future__ import annotations

from typing import Any, Literal

from orchestrator.spec.tasks.base import ChoiceTask, Row, TaskMetric
from orchestrator.system.wording import cut


class MultipleChoiceTask(ChoiceTask):
    """One of a row's own choices, by the likelihood of the choice."""

    kind: Literal["multiple_choice"]
    choices_column: str = "choices"
    answer_column: str = "answer"
    """Index of the right choice, counted from 0, or (with `answer_labels` in `columns`) a label."""
    continuation: str = " {choice}"
    metric: TaskMetric = "accuracy"
    """`accuracy` compares log-likelihoods, `accuracy_norm` divides them by the choice's bytes."""

    @property
    def format_fields(self) -> dict[str, str | None]:
        """The fields that are format strings, see the base."""
        return {**super().format_fields, "continuation": "choice"}

    @property
    def choice_columns(self) -> list[str]:
        """The column of the choices."""
        return [self.choices_column]

    @property
    def answer_from(self) -> str:
        """The column of the right choice."""
        return self.answer_column

    @property
    def answer_option(self) -> str:
        """The field that names it."""
        return "answer_column"

    def lacks_answer(self, value: Any, row: Row) -> str | None:
        """Say why a value is no answer; one of the row's `answer_labels` always is."""
        names = row.get("answer_labels")
        if isinstance(names, list | tuple) and value in names:
            return None
        return super().lacks_answer(value, row)

    def continuations(self, row: Row) -> list[str]:
        """Give the row's choices, each in `continuation`.

        Args:
            row: The row.

        Returns:
            The texts.

        Raises:
            ValueError: There are fewer than two choices.
        """
        choices = row[self.choices_column]
        if not isinstance(choices, list | tuple) or len(choices) < 2:
            raise ValueError(
                f"`{self.choices_column}` of task {self.name!r} must hold at least two choices, "
                f"got {cut(repr(choices))}."
            )
        return [self.continuation.format(choice=choice) for choice in choices]

    def right(self, row: Row, count: int) -> int:
        """Give the index of the row's answer.

        Args:
            row: The row.
            count: How many choices it has.

        Returns:
            The index, counted from 0.

        Raises:
            ValueError: The answer is no index into the choices, and no label of one.
        """
        value = row[self.answer_column]
        names = row.get("answer_labels")
        if isinstance(names, list | tuple) and value in names:
            index: int | None = list(names).index(value)
        else:
            index = _whole(value)
        if index is None or not 0 <= index < count:
            labels = f" and none of the `answer_labels` {names!r}" if names is not None else ""
            raise ValueError(
                f"the answer {cut(repr(value))} is no index into the {count} choices of task "
                f"{self.name!r}, counted from 0{labels}."
            )
        return index

    def with_any_answer(self, row: Row) -> dict[str, Any]:
        """Let the first choice of a row be right."""
        return {**row, self.answer_column: 0, "answer_labels": None}

    def names_of(self, row: Row) -> list[str]:
        """Give the row's choices as they stand there."""
        return [str(choice) for choice in row[self.choices_column]]


def _whole(value: object) -> int | None:
    """A whole number that stands there as such, as text or as 1.0; None for anything else."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
