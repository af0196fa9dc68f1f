"""What a model is given: the inputs that answer an item, and the batches of an epoch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from orchestrator.data.items import Example, Question, Tokens, Window

PLACE_PAIRS = 1024
"""Pairs of places whose attention costs as much as the rest of a pass does for one token. 800 to
2000 were measured with SmolLM2-135M in fp32 on a CPU; wider bases have more."""


@dataclass(frozen=True)
class Scored:
    """One model input with the places where a probability is read."""

    tokens: Tokens
    picks: tuple[tuple[int, int], ...]
    """Pairs (position whose output is read, token or label whose log-probability is wanted)."""
    head: str | None = None
    """The task whose linear head is read; None: the model's own output layer."""
    branches: tuple[tuple[int, int], ...] = ()
    """Of a joint row, where the input of each continuation begins, and how many picks it has.

    The first begins at the prompt's end. Each goes on from the prompt and sees nothing of the
    others; `apart` gives the row of each. Empty: the row is running text.
    """


def scored_rows(item: Question | Window) -> tuple[Scored, ...]:
    """The model inputs that answer an item, as few as possible.

    A continuation's last token is never an input, and continuations share an input where one's
    tokens begin with the other's: single-token labels cost one input a question, however many.
    Several inputs become one joint row, the prompt once and each continuation after it, unless that
    costs more: attention is computed between all places of a row, also where one must not see the
    other, so a row of L tokens costs L + L^2 / `PLACE_PAIRS`. The picks of all rows, in order, are
    grouped by `pick_owners`.

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
    rows = tuple(
        Scored(item.prompt + inputs, tuple(pick for pick, _ in picks), item.head)
        for inputs, picks in _shared_inputs(item)
    )
    joint = joined(rows, len(item.prompt))
    return (joint,) if len(rows) > 1 and _cost([joint]) < _cost(rows) else rows


def joined(rows: Sequence[Scored], prompt: int) -> Scored:
    """Rows that begin with one prompt as one joint row.

    Args:
        rows: Running text each; at least one.
        prompt: Tokens of the prompt, at least 1.

    Returns:
        The joint row, whose picks are those of the rows in their order.
    """
    tokens = rows[0].tokens[:prompt]
    picks: list[tuple[int, int]] = []
    branches: list[tuple[int, int]] = []
    for row in rows:
        begins = len(tokens)
        branches.append((begins, len(row.picks)))
        # The first token of a continuation is read where the prompt ends, which all share.
        picks += [(at if at < prompt else at - prompt + begins, t) for at, t in row.picks]
        tokens += row.tokens[prompt:]
    return Scored(tokens, tuple(picks), rows[0].head, tuple(branches))


def apart(row: Scored) -> tuple[Scored, ...]:
    """The rows that a joint row was joined from; of running text the row itself."""
    if not row.branches:
        return (row,)
    prompt = row.branches[0][0]
    ends = [*(begins for begins, _ in row.branches[1:]), len(row.tokens)]
    picks = iter(row.picks)
    return tuple(
        Scored(
            row.tokens[:prompt] + row.tokens[begins:end],
            tuple(
                (at if at < prompt else at - begins + prompt, token)
                for at, token in islice(picks, count)
            ),
            row.head,
        )
        for (begins, count), end in zip(row.branches, ends, strict=True)
    )


def _cost(rows: Sequence[Scored]) -> float:
    """What some rows cost, in tokens."""
    return sum(len(row.tokens) * (1 + len(row.tokens) / PLACE_PAIRS) for row in rows)


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
