"""Products with a frozen matrix in which a token's numbers do not depend on the other tokens.

A library of matrix products chooses its kernel by the shape, and with it the order of additions, so
that a row of `x @ M` differs in its last bits with the number of rows. Here the rows of x go
through in *tiles* of a few fixed sizes. Which sizes are used is tried out once for each shape of M:
the rows of a tile must come out with the same bits as in tiles of `_REFERENCE` rows, wherever they
are in it. What is left over at the end is filled up with zeros to the smallest size.

The small kernels of libraries also differ by where a number lies in memory: rows start at multiples
of 64 bytes here, so that widths that are no multiple of `GRAIN` are filled up with zeros, unless
the matrix is so large that libraries copy its parts anyway.

References:
    He et al. (2025), "Defeating Nondeterminism in LLM Inference" (batch-invariant kernels).
    https://thinkingmachines.ai/blog/defeating-nondeterminism-in-llm-inference/
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_log = logging.getLogger(__name__)

GRAIN = 16
"""Numbers of 4 bytes to which rows are filled up: 64 bytes, a line of the cache."""

_SIZES = (2048, 1024, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32, 16)
_REFERENCE = 64
_OPERATIONS = 16e9
"""Of a tile at most, as far as trying out is concerned: a fraction of a second on one core."""
_LARGE = 1 << 18
"""Numbers of a matrix from which on its rows may begin anywhere."""

_found: dict[tuple[Any, ...], tuple[int, ...]] = {}
"""The sizes of tiles by what a library chooses its kernel by."""


def grained(width: int) -> int:
    """Give the width that rows of so many numbers are filled up to."""
    return -(-width // GRAIN) * GRAIN


def filled(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """Copy a matrix into memory of its own, with zeros up to a height and a width.

    Args:
        tensor: (n, m).
        rows: n at least.
        columns: m at least.

    Returns:
        (rows, columns), contiguous, at the beginning of a line of the cache.
    """
    if tensor.shape == (rows, columns):
        return tensor.clone(memory_format=torch.contiguous_format)
    copy = tensor.new_zeros(rows, columns)
    copy[: tensor.shape[0], : tensor.shape[1]] = tensor
    return copy


def lined_up(x: Tensor, width: int, height: int | None = None) -> Tensor:
    """Give a matrix as if it had just been made: itself or a copy.

    Args:
        x: (n, m).
        width: m at least.
        height: n at least; None: n.

    Returns:
        (height, width), contiguous, at the beginning of a line of the cache.
    """
    height = x.shape[0] if height is None else height
    if x.shape != (height, width):
        return filled(x, height, width)
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 64 else x


def tiled_product(x: Tensor, M: Tensor) -> Tensor:
    """Give x M, each row of it as it would be alone.

    Args:
        x: (n, k), as `lined_up` gives it.
        M: (k, m), or the transpose of such; m a multiple of `GRAIN` unless M is large.

    Returns:
        (n, m).
    """
    count, k = x.shape
    sizes = sizes_for(M)
    cuts = _cuts(count, sizes)
    if len(cuts) == 1 and count in sizes:
        return torch.mm(x, M)
    out = x.new_empty(count, M.shape[1])
    parts = zip(cuts, x.split_with_sizes(cuts), out.split_with_sizes(cuts), strict=True)
    for size, part, product in parts:
        if size in sizes:
            torch.mm(part, M, out=product)
        else:
            product.copy_(torch.mm(filled(part, sizes[-1], k), M)[:size])
    return out


@functools.cache
def _cuts(count: int, sizes: tuple[int, ...]) -> list[int]:
    """Cut so many rows into tiles, the largest first; what is left over is the last."""
    cuts: list[int] = []
    for size in sizes:
        cuts += [size] * (count // size)
        count %= size
    return [*cuts, count] if count or not cuts else cuts


def sizes_for(M: Tensor) -> tuple[int, ...]:
    """Give the sizes of tiles for products with a matrix, the largest first.

    Args:
        M: (k, m); its numbers do not matter.

    Returns:
        Not empty; `_REFERENCE` alone, with a warning, where not even that size keeps a row's bits.
    """
    columns_first = M.stride(0) == 1 != M.stride(1)
    key = (*M.shape, columns_first, M.dtype, M.device, torch.get_num_threads())
    if key not in _found:
        _found[key] = _tried(M)
    return _found[key]


def _tried(M: Tensor) -> tuple[int, ...]:
    k, m = M.shape
    most = max(_REFERENCE, int(_OPERATIONS / (2 * k * m)))
    wanted = [size for size in _SIZES if size <= most]
    # Rows are looked at in two places of a tile, a few apart.
    shift, count = 5, wanted[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count + shift, k, generator=generator).to(M.device, M.dtype)
    x = torch.cat([x, x.new_zeros(-len(x) % _REFERENCE, k)])
    wanted_rows = torch.cat([torch.mm(part, M) for part in x.split(_REFERENCE)])
    sizes = tuple(
        size
        for size in wanted
        if all(
            torch.equal(torch.mm(x[at : at + size].clone(), M), wanted_rows[at : at + size])
            for at in (0, shift)
        )
    )
    if not sizes:
        _log.warning(
            "Products of %s rows with a matrix of shape %s depend on where a row is, on %s with %d "
            "threads: what is computed with it depends on which trials share a pass.",
            _REFERENCE, (k, m), M.device, torch.get_num_threads(),
        )  # fmt: skip
    return sizes or (_REFERENCE,)


class FrozenMatrix:
    """The weight of a linear layer as products with it need it, forward and backward."""

    def __init__(self, W: Tensor) -> None:
        """Take a weight.

        Args:
            W: (d_out, d_in), or a transposed view; not copied where it is large or even.
        """
        self.d_out, self.d_in = W.shape
        if W.numel() < _LARGE and (W.shape[0] % GRAIN or W.shape[1] % GRAIN or W.data_ptr() % 64):
            W = filled(W, grained(self.d_out), grained(self.d_in))
        self._W = W

    def times(self, x: Tensor) -> Tensor:
        """Give x W' for x (..., d_in), without a graph."""
        return self._product(x, self._W.t(), self.d_out)

    def back(self, G: Tensor) -> Tensor:
        """Give G W for G (..., d_out), without a graph."""
        return self._product(G, self._W, self.d_in)

    def linear(self, x: Tensor) -> Tensor:
        """Give x W' for x (..., d_in), with the graph of x."""
        return _TiledLinear.apply(x, self)  # pyright: ignore[reportReturnType]

    @staticmethod
    def _product(x: Tensor, M: Tensor, width: int) -> Tensor:
        flat = lined_up(x.reshape(-1, x.shape[-1]), M.shape[0])
        return tiled_product(flat, M)[:, :width].reshape(*x.shape[:-1], width)


class _TiledLinear(torch.autograd.Function):
    """x W' with a frozen W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: FrozenMatrix) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.matrix = matrix
        return matrix.times(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.matrix.back(G), None
