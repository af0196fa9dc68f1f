"""What a model is given: the inputs that answer an item, and the batches of an epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.data.items import Example, Question, Tokens, Window


@dataclass(frozen=True)
class Scored:
    """One model input with the places where a probability is read."""

    tokens: Tokens
    picks: tuple[tuple[int, int], ...]
    """Pairs (position whose output is read, token or label whose log-probability is wanted)."""
    head: str | None = None
    """The task whose linear head is read; None: the model's own output layer."""


def scored_rows(item: Question | Window) -> tuple[Scored, ...]:
    """The model inputs that answer an item, as few as possible.

    A continuation's last token is never an input, and continuations share an input where one's
    tokens begin with the other's: single-token labels cost one input a question, however many.
    The picks of all rows, in order, are grouped by `pick_owners`.

    Args:
        item: A question or a window.

    Returns:
        The rows, in a fixed order.
    """
    if isinstance(item, Window):
        picks = tuple(
            (position - 1, item.tokens[position])
            for position in range(item.scored_from, len(item.tokens))
        )
        return (Scored(item.tokens[:-1], picks),)
    return tuple(
        Scored(item.prompt + inputs, tuple(pick for pick, _ in picks), item.head)
        for inputs, picks in _shared_inputs(item)
    )


def pick_owners(question: Question) -> tuple[int, ...]:
    """For each pick of `scored_rows(question)`, in order, the continuation it belongs to."""
    return tuple(owner for _, picks in _shared_inputs(question) for _, owner in picks)


def _shared_inputs(
    question: Question,
) -> list[tuple[Tokens, list[tuple[tuple[int, int], int]]]]:
    inputs: list[Tokens] = []
    for tail in sorted((c[:-1] for c in question.continuations), key=len, reverse=True):
        if not any(longer[: len(tail)] == tail for longer in inputs):
            inputs.append(tail)
    rows: list[tuple[Tokens, list[tuple[tuple[int, int], int]]]] = [(tail, []) for tail in inputs]
    last = len(question.prompt) - 1
    for owner, continuation in enumerate(question.continuations):
        home = next(
            index for index, tail in enumerate(inputs)
            if tail[: len(continuation) - 1] == continuation[:-1]
        )  # fmt: skip
        rows[home][1].extend(
            ((last + offset, token), owner) for offset, token in enumerate(continuation)
        )
    return rows


def epoch_batches(
    examples: Sequence[Example], batch_size: int, *, seed: int, epochs: int
) -> list[tuple[Example, ...]]:
    """The optimiser steps of one task: shuffled, then bucketed by length.

    Examples are shuffled, sorted by length inside stretches of 16 batches, cut into batches, and
    the batches shuffled again: little padding, and an order that depends on nothing but the seed.

    Args:
        examples: The task's training examples.
        batch_size: Examples per optimiser step, over all workers.
        seed: Seed of the order; each epoch draws its own.
        epochs: Passes over the examples.

    Returns:
        One tuple of examples per optimiser step; the last of an epoch may be smaller.
    """
    steps: list[tuple[Example, ...]] = []
    for epoch in range(epochs):
        generator = random.Random(f"{seed}/{epoch}")
        order = list(examples)
        generator.shuffle(order)
        batches: list[tuple[Example, ...]] = []
        stretch = 16 * batch_size
        for start in range(0, len(order), stretch):
            part = sorted(order[start : start + stretch], key=lambda e: len(e.tokens))
            batches += [tuple(part[i : i + batch_size]) for i in range(0, len(part), batch_size)]
        generator.shuffle(batches)
        steps += batches
    return steps
