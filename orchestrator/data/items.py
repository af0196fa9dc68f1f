"""What a model learns from and is asked, as token ids: examples, questions, windows, writings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Tokens: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """One training sequence: the tokens from `scored_from` on are what is learnt."""

    tokens: Tokens
    """With a head, the last of them is not a token but the index of the right label."""
    scored_from: int
    """Index of the first scored token, at least 1 (nothing predicts the first token)."""
    head: str | None = None
    """The task whose linear head is trained; None: the model's own output layer."""
    label: int | None = None
    """Index of the right label or choice, where there is one."""


@dataclass(frozen=True)
class Question:
    """One prompt with its alternatives; classification and multiple choice alike."""

    prompt: Tokens
    continuations: tuple[Tokens, ...]
    """With a head, `(0,)`, `(1,)` and so on: the indices of its labels."""
    lengths: tuple[int, ...]
    """Length of each continuation in UTF-8 bytes (leading space excluded); 1 with a head."""
    answer: int
    """Index of the right continuation, counted from 0."""
    head: str | None = None
    """The task whose linear head answers; None: the model's own output layer."""
    shortened: bool = False
    """Whether the prompt did not fit."""

    @property
    def is_answerable(self) -> bool:
        """Whether no other continuation reads like the right one."""
        return self.continuations.count(self.continuations[self.answer]) == 1


@dataclass(frozen=True)
class Window:
    """A stretch of running text."""

    tokens: Tokens
    scored_from: int
    num_bytes: int
    """UTF-8 bytes of the scored text."""


@dataclass(frozen=True)
class Writing:
    """A prompt after which the model writes, and what it should have written."""

    prompt: Tokens
    target: Tokens
    """The reference as the model learns it, the end of the text included."""
    reference: str
    shortened: bool = False
    """Whether the prompt or, in training, the reference did not fit."""


Item: TypeAlias = Question | Window | Writing


def token_ids(item: Item | Example) -> Iterator[int]:
    """Every token id that a model is given for an item, or asked for."""
    match item:
        case Question():
            yield from item.prompt
            if item.head is None:
                yield from itertools.chain(*item.continuations)
        case Writing():
            yield from item.prompt
            yield from item.target
        case Example():
            yield from item.tokens[: -1 if item.head is not None else None]
        case Window():
            yield from item.tokens


def example_of(item: Question | Writing) -> Example:
    """The training sequence of a question (its right continuation) or of a writing."""
    if isinstance(item, Writing):
        return Example(item.prompt + item.target, len(item.prompt))
    right = item.continuations[item.answer]
    return Example(item.prompt + right, len(item.prompt), item.head, item.answer)
