"""Rows of tokens as batches with little padding, and as the tensors of a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curlora.transfers import on_device
from orchestrator.data.items import Example
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.linear_heads import HeadChoice
from orchestrator.system.pulse import batched

FULL_PASS = 1024
"""Padded tokens from which on a batch may be closed to save padding. With fewer a GPU is not full,
and one more pass would cost more than the padding."""

PASS_TOKENS = 40
"""What one more pass costs on a CPU, in tokens, for deciding how much padding is worth it. With 16
rows of 40 tokens in each it was seen to cost 90; from 40 to 90 the whole of a mixed pack costs the
same within 2 %, and with 40 more of it is useful."""

SHORTEST_ROW = 0.85
"""A row with at least this share of a full batch's longest row still joins that batch."""


USEFUL = 0.95
"""Share of the tokens of batches that are scored that are no padding, at least, where it can be."""


def batch_length(rows: Sequence[Scored], step: int = 1) -> int:
    """Tokens of a batch's longest row, as the next multiple of `step`."""
    return -(-max(len(row.tokens) for row in rows) // step) * step


def padded(
    rows: Sequence[Scored], device: torch.device, step: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """One batch: token ids (B, L), flat positions (N,) and targets (N,); L a multiple of `step`."""
    length = batch_length(rows, step)
    input_ids = torch.zeros((len(rows), length), dtype=torch.long)
    positions: list[int] = []
    targets: list[int] = []
    for index, row in enumerate(rows):
        input_ids[index, : len(row.tokens)] = torch.tensor(row.tokens)
        positions += [index * length + position for position, _ in row.picks]
        targets += [token for _, token in row.picks]
    batched(sum(len(row.tokens) for row in rows), input_ids.numel())
    return (
        on_device(input_ids, device),
        on_device(torch.tensor(positions, dtype=torch.long), device),
        on_device(torch.tensor(targets, dtype=torch.long), device),
    )


def heads_of(rows: Sequence[Scored], device: torch.device) -> HeadChoice:
    """Whose linear head is read at each pick of some rows, as `ScoredModel` takes it."""
    owners = [row.head for row in rows for _ in row.picks]
    names = list(dict.fromkeys(owners))
    if len(names) <= 1:
        return names[0] if names else None
    places = {name: [i for i, owner in enumerate(owners) if owner == name] for name in names}
    return {name: on_device(torch.tensor(found), device) for name, found in places.items()}


def token_places(rows: Sequence[Scored], chosen: Sequence[bool], device: torch.device) -> Tensor:
    """The tokens of the chosen rows, without padding, as indices into the flattened (B * L)."""
    length = max(len(row.tokens) for row in rows)
    found = [
        index * length + place
        for index, (row, wanted) in enumerate(zip(rows, chosen, strict=True))
        if wanted
        for place in range(len(row.tokens))
    ]
    return on_device(torch.tensor(found, dtype=torch.long), device)


def scored_example(example: Example) -> Scored:
    """A training example as a row: every token from `scored_from` on is a target."""
    picks = tuple(
        (i - 1, example.tokens[i]) for i in range(example.scored_from, len(example.tokens))
    )
    return Scored(example.tokens[:-1], picks, example.head)


def bucketed(
    rows: Sequence[Scored], batch_tokens: int, *, shortest: float = SHORTEST_ROW
) -> list[list[int]]:
    """Sort rows by length into batches with little padding.

    Args:
        rows: What is to be computed.
        batch_tokens: Padded tokens of a batch at most; a batch has at least one row.
        shortest: Share of the longest row's tokens, 0 to 1, below which a row opens another batch
            once `FULL_PASS` padded tokens are reached; 0 fills every batch.

    Returns:
        Indices of the rows, longest first.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].tokens), i))
    batches: list[list[int]] = []
    for index in order:
        # Longest first: the first row of a batch is its padded length.
        longest = len(rows[batches[-1][0]].tokens) if batches else 0
        count = len(batches[-1]) if batches else 0
        fits = bool(batches) and (count + 1) * longest <= batch_tokens
        is_short = len(rows[index].tokens) < shortest * longest
        if fits and not (is_short and count * longest >= FULL_PASS):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def scoring_batches(
    rows: Sequence[Scored], batch_tokens: int, device: torch.device
) -> list[list[int]]:
    """Rows that are scored, sorted by length into batches.

    The batches are those that compute least, of those with at most 5 % of padding if there are any.

    Args:
        rows: What is to be computed.
        batch_tokens: Padded tokens of a batch at most; a batch has at least one row.
        device: Where.

    Returns:
        Indices of the rows, longest first.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].tokens), i))
    sizes = [(1, len(rows[i].tokens)) for i in order]
    each, useful, cuts = pass_tokens(device), 0.0, list[tuple[int, int]]()
    # The less a pass counts, the more of them there are, and the less padding.
    while useful < USEFUL and each > 0:
        cuts = cut_into_passes(sizes, lambda count: count, batch_tokens, each)
        computed = sum((end - first) * sizes[first][1] for first, end in cuts)
        useful = sum(length for _, length in sizes) / computed
        each //= 2
    return [order[first:end] for first, end in cuts]


def pass_tokens(device: torch.device) -> int:
    """What one more pass costs, in tokens."""
    return PASS_TOKENS if device.type == "cpu" else FULL_PASS


def cut_into_passes(
    sizes: Sequence[tuple[int, int]], shard_size: Callable[[Any], Any], limit: int, each: int
) -> list[tuple[int, int]]:
    """Cut rows, or slots that have several, into the passes that compute least.

    Args:
        sizes: Rows of each slot and tokens of its longest, the longest slots first.
        shard_size: The rows of the largest shard of so many, of an array of counts.
        limit: Padded tokens of a pass; a slot that has more alone is a pass of its own.
        each: What a pass costs besides, in tokens.

    Returns:
        First and end of each pass, in order.
    """
    longest = np.array([tokens for _, tokens in sizes], dtype=np.int64)
    before = np.cumsum([0, *(rows for rows, _ in sizes)])
    # The least that the first slots cost, by their number, and where their last pass begins.
    least = np.zeros(len(sizes) + 1, dtype=np.int64)
    begins = [0]
    start = 0
    for end in range(1, len(sizes) + 1):
        tokens = shard_size(before[end] - before[start:end]) * longest[start:end]
        # The further back a pass begins, the larger it is.
        fitting = int((tokens[:-1] > limit).sum())
        start += fitting
        costs = least[start:end] + tokens[fitting:] + each
        first = int(costs.argmin())
        least[end] = costs[first]
        begins.append(start + first)
    cuts, end = list[tuple[int, int]](), len(sizes)
    while end:
        cuts.append((begins[end], end))
        end = begins[end]
    return cuts[::-1]


def first_pick(row: Scored) -> Scored:
    """The row with its first pick only."""
    return Scored(row.tokens, row.picks[:1])


def mean_loss(values: Sequence[Sequence[float]]) -> float:
    """The mean loss per scored token, in nats, from log-probabilities row by row."""
    flat = [value for row in values for value in row]
    return -sum(flat) / len(flat)
