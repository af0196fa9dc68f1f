"""What is found out about a task's rows: splits, lengths, samples, right answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.data.formats.placed_row import Row
from orchestrator.data.prompts import continuation_texts, right_answer, row_text
from orchestrator.data.splits import text_digest
from orchestrator.spec.task_kinds import ChoiceTask, PromptedTask, TaskSpec

ROWS_TOKENISED = 1000
"""Rows of a split whose tokens are counted, chosen by hash."""


SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Sample:
    """One row as the model sees it."""

    split: str
    prompt: str
    continuation: str
    """The right one; empty for running text."""
    others: tuple[str, ...] = ()
    """The row's other choices."""


@dataclass(frozen=True)
class Lengths:
    """How long prompt and right continuation are together, over the rows looked at."""

    rows: int
    median: float
    longest: int
    over_limit: int | None = None
    """Rows longer than the limit; None where there is no limit."""


@dataclass(frozen=True)
class SplitFacts:
    """One split of the task."""

    rows: int
    origin: str
    duplicates: int
    """Rows whose prompt stands in an earlier row of the split as well."""
    labels: dict[str, int] = field(default_factory=dict)
    """Rows of each label word or, for multiple choice, of each position of the right choice."""
    characters: Lengths | None = None
    tokens: Lengths | None = None


@dataclass(frozen=True)
class TaskCheck:
    """Everything that `orchestrate tasks check` says."""

    name: str
    kind: str
    head: str | None
    """How a classification task is answered; None for other kinds."""
    description: str
    place: str
    splits: dict[str, SplitFacts]
    samples: tuple[Sample, ...]
    overlaps_removed: int
    left_out: int
    incomplete: int
    majority: float | None
    """What the commonest label of train scores on validation."""
    chance: float | None
    max_length: int | None
    words: dict[str, list[str]]
    """Label word to the values in the data that it stands for."""
    warnings: tuple[str, ...]


def choices_and_answer(task: ChoiceTask, row: Row) -> tuple[list[str], int]:
    """The continuations of a row that may be chosen, and which of them is right."""
    texts = continuation_texts(task, row)
    return texts, right_answer(task, row, len(texts))


def answer_text(task: PromptedTask, row: Row) -> str:
    """The right continuation of a row."""
    if not isinstance(task, ChoiceTask):
        return continuation_texts(task, row)[0]
    texts, answer = choices_and_answer(task, row)
    return texts[answer]


def first_by_hash(task: TaskSpec, rows: Sequence[Row], limit: int) -> list[Row]:
    """At most `limit` rows, the same ones whatever their order."""
    return sorted(rows, key=lambda row: text_digest(row_text(task, row), "check"))[:limit]
