"""Frozen factors of all selections of columns and rows in a pack, on one layer."""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from curlora.packing.seats import Seats, pick, room_for
from curlora.transfers import on_device


class CurSelections:
    """The frozen factors of all selections in a pack, on one layer, padded to the largest rank."""

    def __init__(self) -> None:
        self.ranks: list[int] = []
        self._stacks: tuple[Tensor, ...] | None = None
        self._ranks_there: Tensor | None = None
        """`ranks` beside the stacks, since they last changed."""

    def append(self, C: Tensor, R: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Add a selection.

        Args:
            C: (d_out, r).
            R: (r, d_in).
            rows: (r,).
            columns: (r,).
        """
        new = (C.t(), R, rows.long(), columns.long())
        position, r = len(self.ranks), len(rows)
        count, widest = (0, 0) if self._stacks is None else self._stacks[0].shape[:2]
        if position == count or r > widest:
            count = max(count, room_for(position + 1, sys.maxsize))
            self._resize(new, count, max(r, widest))
        assert self._stacks is not None
        for stack, tensor in zip(self._stacks, new, strict=True):
            stack[position, :r] = tensor
            stack[position, r:] = _filler(tensor[:1])
        self.ranks.append(r)
        self._ranks_there = None

    def pop(self) -> None:
        """Drop the last selection without taking memory; the next uses what it held."""
        assert self._stacks is not None
        self.ranks.pop()
        self._ranks_there = None
        widest = max(self.ranks, default=0)
        self._stacks = tuple(stack[:, :widest] for stack in self._stacks) if widest else None

    def _resize(self, like: Sequence[Tensor], count: int, rank: int) -> None:
        former = self._stacks
        self._stacks = tuple(tensor.new_zeros(count, rank, *tensor.shape[1:]) for tensor in like)
        if former is None:
            return
        taken, kept = len(self.ranks), former[0].shape[1]
        for old, new in zip(former, self._stacks, strict=True):
            new[:taken, :kept] = old[:taken]
            new[:taken, kept:] = _filler(old[:taken, :1])

    def keep(self, positions: Sequence[int]) -> None:
        """Drop all selections but some.

        Args:
            positions: Of those to keep, in their new order.
        """
        assert self._stacks is not None
        self.ranks = [self.ranks[position] for position in positions]
        self._ranks_there = None
        if not positions:
            self._stacks = None
            return
        chosen = on_device(torch.tensor(positions), self._stacks[0].device)
        widest = max(self.ranks)
        self._stacks = tuple(
            stack[:, :widest].index_select(0, chosen).contiguous() for stack in self._stacks
        )

    def bytes_of(self, width: int, itemsize: int, rank: int) -> int:
        """Give how many bytes more will be held once another selection is added.

        Args:
            width: Inputs and outputs of the layer, d_in + d_out.
            itemsize: Bytes of a number of its weight.
            rank: Of the selection.

        Returns:
            Of its factors and indices, and of the padding of the others.
        """
        taken, widest = len(self.ranks), max(self.ranks, default=0)
        size = width * itemsize + 2 * torch.int64.itemsize
        return ((taken + 1) * max(rank, widest) - taken * widest) * size

    def one(self, position: int) -> tuple[Tensor, ...]:
        """Give C', R, rows and columns of one selection, without padding."""
        assert self._stacks is not None
        C, R, rows, columns = (stack[position, : self.ranks[position]] for stack in self._stacks)
        return C, R, rows, columns

    def several(self, positions: Seats) -> tuple[Tensor, ...]:
        """Give C', R, rows, columns and the mask of what is no padding, each (m, r, ...)."""
        assert self._stacks is not None
        C, R, rows, columns = (pick(stack, positions) for stack in self._stacks)
        if self._ranks_there is None:
            self._ranks_there = on_device(torch.tensor(self.ranks), C.device)
        ranks = pick(self._ranks_there, positions)[:, None]
        filled = torch.arange(C.shape[1], device=C.device) < ranks
        return C, R, rows, columns, filled


def _filler(first: Tensor) -> Tensor | float:
    # An index that is read anyway: what it gives is masked, and as finite as the rest.
    return 0.0 if first.is_floating_point() else first
