"""Generation: a text that the model writes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from orchestrator.spec.tasks.base import PromptedTask, Row

GenerationMetric = Literal["exact_match", "bleu", "rouge_l"]


class GenerationTask(PromptedTask):
    """A text that the model writes after the prompt, greedily, compared with a reference.

    It is the form of all tasks that are written: another kind of them is a subclass with its own
    `kind`, `metric` and `rate`.
    """

    kind: Literal["generation"]
    target_column: str = "target"
    """The reference, learnt from and compared with."""
    target: str = " {target}"
    """What follows the prompt in training; `{target}` stands for the reference."""
    metric: GenerationMetric = "exact_match"
    answer: Literal["text", "final_number"] = "text"
    """What `exact_match` compares: the whole text, or its last number (as for GSM8K)."""
    max_new_tokens: int = Field(default=64, ge=1, le=65536)
    """Tokens written at most; the bound is there for tasks that come from others with a model."""
    stop: tuple[str, ...] = ("\n",)
    """Texts that end the writing, besides the model's own end of text."""

    @model_validator(mode="after")
    def _target_named(self) -> GenerationTask:
        if "{target}" not in self.target:
            raise ValueError(f"`target` must hold {{target}}, the reference; got {self.target!r}")
        if self.answer == "final_number" and self.metric != "exact_match":
            raise ValueError("`answer: final_number` belongs to `metric: exact_match`")
        if "" in self.stop:
            raise ValueError("`stop` holds an empty text, which ends all writing before it begins")
        return self

    @property
    def format_fields(self) -> dict[str, str | None]:
        """The fields that are format strings, see the base."""
        return {**super().format_fields, "target": "target"}

    @property
    def answer_from(self) -> str:
        """The column of the reference."""
        return self.target_column

    @property
    def answer_option(self) -> str:
        """The field that names it."""
        return "target_column"

    def lacks_answer(self, value: Any, row: Row) -> str | None:  # noqa: ARG002
        """Say why a value is no reference: nothing is in it."""
        return "is missing" if isinstance(value, str) and not value.strip() else None

    def continuations(self, row: Row) -> list[str]:
        """Give the reference, in `target`."""
        return [self.target.format(target=row[self.target_column])]

    def rate(self, text: str, reference: str) -> float | None:  # noqa: ARG002
        """Score one text, in a kind that has a metric of its own.

        Args:
            text: What the model wrote.
            reference: What it should have written.

        Returns:
            In [0, 1], larger is better; None: by a `metric` of ours.
        """
        return None
