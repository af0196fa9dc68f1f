"""Language modelling: running text."""

from __future__ import annotations

from typing import Literal

from orchestrator.spec.tasks.base import TaskBase


class LanguageModellingTask(TaskBase):
    """Running text: perplexity and bits per byte."""

    kind: Literal["language_modelling"]
    text_column: str = "text"
    joiner: str = "\n"
    """What stands between two rows when they are joined to one text."""
    metric: Literal["perplexity"] = "perplexity"

    @property
    def asked_columns(self) -> list[str]:
        """The column of the text."""
        return [self.text_column]
