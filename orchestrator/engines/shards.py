"""Batches of rows computed on all workers: each computes its shard of every batch, all get all.

Every worker goes through equally many passes, because under ZeRO stage 3 a forward pass is a
collective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from orchestrator.data.model_inputs import Scored
from orchestrator.engines.row_batches import bucketed, first_pick
from orchestrator.engines.workers import Workers

_Value = TypeVar("_Value")
_Failed = TypeVar("_Failed")


def run_shards(
    batches: Iterable[Sequence[int]],
    workers: Workers,
    compute: Callable[[list[int]], list[_Value] | _Failed],
    recover: Callable[[list[int], _Failed, list[list[int]]], list[list[int]]] | None = None,
) -> dict[int, _Value]:
    """Compute batches of rows, of each this worker's shard.

    Args:
        batches: Indices of rows, the same on every worker; none is empty.
        workers: Which of how many this is.
        compute: Gives a list of values, one for each index; anything else says that the batch has
            failed, on every worker alike.
        recover: Called with a failed batch, what `compute` gave, and the batches that are left;
            gives those that are computed instead. Needed where a batch can fail without raising.

    Returns:
        The values of this worker's rows by index.
    """
    waiting = [list(batch) for batch in batches]
    mine: dict[int, _Value] = {}
    while waiting:
        batch = waiting.pop(0)
        own, counts = workers.shard(batch)
        found = compute(own)
        if isinstance(found, list):
            mine |= dict(zip(own, found, strict=True)) if counts else {}
        elif recover is not None:
            waiting = recover(batch, found, waiting)
    return mine


def values_by_row(found: Tensor, rows: Sequence[Scored]) -> list[list[float]]:
    """The values of a pass (N,), one for each pick, row by row."""
    values = iter(found.tolist())
    return [list(islice(values, len(row.picks))) for row in rows]


def gather_values(
    mine: Mapping[int, Sequence[float]],
    sizes: Sequence[int],
    workers: Workers,
    device: torch.device,
) -> list[list[float]]:
    """The values of all rows on every worker; a collective.

    Args:
        mine: This worker's, by index. A row that no worker has becomes zeros, and with one worker
            an empty list.
        sizes: How many values each row has.
        workers: Which of how many this is.
        device: Where workers sum.

    Returns:
        The values by row, unrounded.
    """
    if workers.alone:
        return [list(mine.get(index, ())) for index in range(len(sizes))]
    flat = [value for i, size in enumerate(sizes) for value in mine.get(i, [0.0] * size)]
    whole = torch.tensor(flat, dtype=torch.float64, device=device)
    workers.all_reduce([whole] if flat else [])  # no values where texts are written
    values = iter(whole.tolist())
    return [list(islice(values, size)) for size in sizes]


def gather_texts(mine: Mapping[int, str | None], count: int, workers: Workers) -> list[str | None]:
    """The texts of all `count` rows on every worker, of which each has some; a collective."""
    whole = {index: text for some in workers.all_gather(mine) for index, text in some.items()}
    return [whole[index] for index in range(count)]


def hidden_states(
    states: Callable[[list[Scored]], Tensor],
    rows: Sequence[Scored],
    tokens: int,
    width: int,
    workers: Workers,
    device: torch.device,
) -> Tensor:
    """The last hidden state at the first pick of every row; a collective.

    Args:
        states: Gives those of some rows in one pass, (rows, width).
        rows: Each with a pick at least.
        tokens: Padded tokens of a pass at most, on each worker.
        width: Numbers of a hidden state.
        workers: Which of how many this is.
        device: Where the model is.

    Returns:
        float32 (rows, width), on the CPU.
    """

    def compute(own: list[int]) -> list[Tensor]:
        return list(states([first_pick(rows[i]) for i in own]).cpu())

    whole = torch.zeros((len(rows), width))
    with torch.no_grad():
        for index, state in run_shards(
            bucketed(rows, tokens * workers.world), workers, compute
        ).items():
            whole[index] = state
    if workers.alone:
        return whole
    summed = whole.to(device)
    workers.all_reduce([summed])
    return summed.cpu()
