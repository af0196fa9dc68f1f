"""Passes of a frozen base in which a row's numbers do not depend on the rows beside it.

Every linear layer goes through its weight in tiles (`curlora.packing.tiles`), and attention goes
over each row by itself (`curlora.packing.row_attention`). What else a base does it does to each
token alone, and is left as it is, but for the last numbers of a tensor: a processor computes so
many of an activation at once, and the few that are left over by another formula. So batches are as
long as it takes that none are (`step`).

It holds where a model of transformers is made of linear layers, norms, activations and attention
that it calls by name, on a CPU with one thread or two. Layers that look at several tokens by
themselves (convolutions, state spaces) or part tokens among experts are computed as ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from curlora.packing.row_attention import RowLengths, row_attention, takes_rows
from curlora.packing.tiles import FrozenMatrix

_AT_ONCE = 64
"""Numbers of an activation that two threads compute in whole vectors: two of 512 bits at a time
each. More threads part a tensor into thirds and so on, which end within a vector."""


class InvariantPasses:
    """A base whose linear layers go through their weights in tiles."""

    def __init__(self, base: Any, packed: Sequence[nn.Module]) -> None:
        """Replace the `forward` of the linear layers that a pack does not have already.

        Args:
            base: A frozen model of transformers.
            packed: The pack's layers.

        Raises:
            ValueError: The base's attention cannot be replaced.
        """
        if not takes_rows(base):
            raise ValueError(
                f"{type(base).__name__} does not call its attention by name, so that it cannot go "
                "over each row by itself. Set `batch_invariant: false`."
            )
        self._base = base
        widths = [width for m in _linear(base) for width in _widths(m)]
        self.step = _AT_ONCE // math.gcd(_AT_ONCE, *widths)
        """Batches are a multiple of so many tokens long."""
        taken = {id(module) for module in packed}
        self._layers = [m for m in _linear(base) if id(m) not in taken]
        for module in self._layers:
            module.forward = _Tiled(module)

    def attention(self, lengths: Sequence[int]) -> AbstractContextManager[None]:
        """Attend to each row by itself for a while; with no lengths, as the base does it."""
        if not lengths:
            return nullcontext()
        return row_attention(self._base, RowLengths(lengths, self._base.device))

    def undo(self) -> None:
        """Give the layers their own `forward` back."""
        for module in self._layers:
            del module.forward
        self._layers = []


class _Tiled:
    """A linear layer's forward pass, in tiles."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._matrix = frozen_matrix(module)

    def __call__(self, x: Tensor) -> Tensor:
        y = self._matrix.linear(x)
        return y if self._module.bias is None else y + self._module.bias


def frozen_matrix(module: Any) -> FrozenMatrix:
    """The weight of a layer, for products in tiles."""
    weight = module.weight.detach()
    return FrozenMatrix(weight.t() if isinstance(module, Conv1D) else weight)


def _linear(base: nn.Module) -> Iterator[Any]:
    return (m for m in base.modules() if type(m) in {nn.Linear, Conv1D})


def _widths(module: Any) -> tuple[int, int]:
    return tuple(module.weight.shape)
