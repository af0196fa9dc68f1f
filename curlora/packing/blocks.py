"""Equal blocks of neighbouring rows of a batch, each of one adapter."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curlora.packing.parameters import SeatedParameters
from curlora.packing.seats import Seats, pick, pick_seats


@dataclass(frozen=True)
class Blocks:
    """Which rows of the batch a segment has, and whose they are."""

    rows: Seats
    seats: Seats
    """The seat of each block."""
    count: int

    def cut(self, rows: Tensor) -> Tensor:
        """From (n, T, d), the segment's rows, to (count, n T / count, d)."""
        return rows.view(self.count, -1, rows.shape[-1])


def block_scales(seated: SeatedParameters, blocks: Blocks) -> Tensor:
    """Give the scale of each block's adapter, (m, 1, 1)."""
    return pick(seated.scales, blocks.seats).view(-1, 1, 1)


def blocks_of(rows: Sequence[int], seats: Sequence[int], device: torch.device) -> Blocks:
    """Cut rows into the largest equal blocks of one seat each.

    Args:
        rows: Positions in the batch, in order; not empty.
        seats: The seat of each.
        device: Where index tensors are put.

    Returns:
        A block for every seat where each has equally many neighbouring rows.
    """
    runs = [(seat, len(list(run))) for seat, run in itertools.groupby(seats)]
    size = math.gcd(*(length for _, length in runs))
    owners = [seat for seat, length in runs for _ in range(length // size)]
    return Blocks(pick_seats(rows, device), pick_seats(owners, device), len(owners))
