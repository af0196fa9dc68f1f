"""Classification: one label out of a fixed set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.spec.tasks.base import ChoiceTask, Head, Row, TaskMetric
from orchestrator.system.wording import cut, suggestion


class ClassificationTask(ChoiceTask):
    """One label out of a fixed set: of a text, or of a pair of texts named in one prompt."""

    kind: Literal["classification"]
    head: Head = "label_words"
    """`label_words`: the label word that is likeliest after the prompt. `linear`: a linear layer of
    the task's own on the last hidden state, trained with the adapter and kept beside it."""
    label_column: str = "label"
    labels: dict[str, str | None] = Field(min_length=2)
    """Value in the data (as a string) to the continuation that stands for it.

    Values with the same continuation are one label; rows whose value maps to null are left out
    and counted.
    """
    metric: TaskMetric = "accuracy"

    @field_validator("labels", mode="before")
    @classmethod
    def _values_as_text(cls, labels: object) -> object:
        """YAML reads 0 as a number and no as false; a value in the data is compared as text."""
        if not isinstance(labels, dict):
            return labels
        booleans = [value for value in labels if isinstance(value, bool)]
        if booleans:
            raise ValueError(
                f"YAML reads an unquoted yes, no, on, off, true or false as {booleans[0]}; write "
                "the value in the data in quotes"
            )
        return {str(v) if isinstance(v, int | float) else v: word for v, word in labels.items()}

    @model_validator(mode="after")
    def _two_words(self) -> ClassificationTask:
        if len(self.words) < 2:
            raise ValueError(f"`labels` needs at least two different label words, got {self.words}")
        return self

    @property
    def words(self) -> list[str]:
        """The different label words, in the order of the file."""
        return list(dict.fromkeys(word for word in self.labels.values() if word is not None))

    @property
    def label_values(self) -> list[str]:
        """For each label word, the first value in the data that it stands for."""
        return [next(v for v, w in self.labels.items() if w == word) for word in self.words]

    @property
    def values_of_words(self) -> dict[str, list[str]]:
        """For each label word, all values in the data that it stands for."""
        return {word: [v for v, w in self.labels.items() if w == word] for word in self.words}

    @property
    def has_head(self) -> bool:
        """Whether a linear layer of the task's own answers."""
        return self.head == "linear"

    @property
    def answer_from(self) -> str:
        """The column of the label."""
        return self.label_column

    @property
    def answer_option(self) -> str:
        """The field that names it."""
        return "label_column"

    def lacks_answer(self, value: Any, row: Row) -> str | None:
        """Say why a value is no label; one that `labels` lists always is, see the base."""
        return None if self.label_of(value) in self.labels else super().lacks_answer(value, row)

    def continuations(self, row: Row) -> list[str]:  # noqa: ARG002
        """Give the label words, the same for every row."""
        return self.words

    def right(self, row: Row, count: int) -> int:  # noqa: ARG002
        """Give the index of the row's label word.

        Args:
            row: The row.
            count: Not read.

        Returns:
            The index, counted from 0.

        Raises:
            ValueError: `labels` does not list the row's label, or leaves such rows out.
        """
        value = self.label_of(row[self.label_column])
        known = list(self.labels)
        if value not in self.labels:
            raise ValueError(
                f"the label {cut(value)!r} is not among the `labels` {known} of task "
                f"{self.name!r}.{suggestion(value, known)}"
            )
        word = self.labels[value]
        if word is None:
            raise ValueError(f"rows labelled {value!r} are left out of task {self.name!r}.")
        return self.words.index(word)

    def with_any_answer(self, row: Row) -> dict[str, Any]:
        """Give a row the first label."""
        return {**row, self.label_column: self.label_values[0]}

    def label_of(self, value: object) -> str:
        """Give the text under which a label stands in `labels`.

        Args:
            value: What the row has: 1, 1.0 and true are found as 1 and true as well, because
                programs that know of missing values write whole numbers as 1.0, and JSON writes
                true.

        Returns:
            A key of `labels` where there is one, else the value's own text.
        """
        text = str(value)
        if text in self.labels or isinstance(value, str):
            return text
        others: Sequence[str] = ()
        if isinstance(value, bool):
            others = (text.lower(), str(int(value)))
        elif isinstance(value, float) and value.is_integer():
            others = (str(int(value)),)
        return next((other for other in others if other in self.labels), text)
