"""Products with a frozen matrix in which a token's numbers do not depend on the other tokens.

A library of matrix products chooses its kernel by the shape, and with it the order of additions, so
that a row of `x @ M` differs in its last bits with the number of rows. Here the rows of x go
through in *tiles*, as large as they can be. Each size is tried out when it is first used with a
shape of M: all rows of a tile must come out with the same bits as in tiles of `_REFERENCE` rows;
otherwise smaller ones are used. What is left over at the end is filled up with zeros.

The small kernels of libraries also differ by where a number lies in memory: rows start at multiples
of 64 bytes here, so that widths that are no multiple of `GRAIN` are filled up with zeros, unless
the matrix is so large that libraries copy its parts anyway.

References:
    He et al. (2025), "Defeating Nondeterminism in LLM Inference" (batch-invariant kernels).
    https://thinkingmachines.ai/blog/defeating-nondeterminism-in-llm-inference/
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_log = logging.getLogger(__name__)

GRAIN = 16
"""Numbers of 4 bytes to which rows are filled up: 64 bytes, a line of the cache."""

_MOST, _STEP = 2048, 8
"""Rows of a tile at most, and of what they are a multiple (above half of the most: of twice)."""
_SIZES = (1024, 512, 256, 128, 64, 32, 16, 8)
"""Sizes that are tried where the largest possible one does not agree."""
_REFERENCE = 64
_LARGE = 1 << 18
"""Numbers of a matrix from which on its rows may begin anywhere."""

_kernels: dict[tuple[Any, ...], _Kernel] = {}
"""By what a library chooses its kernel by."""


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
    cuts = tiles_of(count, M)
    if cuts == ((count, count),):
        return torch.mm(x, M)
    out = x.new_empty(count, M.shape[1])
    own = [rows for rows, _ in cuts]
    parts = zip(cuts, x.split_with_sizes(own), out.split_with_sizes(own), strict=True)
    for (rows, size), part, product in parts:
        if rows == size:
            torch.mm(part, M, out=product)
        else:
            product.copy_(torch.mm(filled(part, size, k), M)[:rows])
    return out


def tiles_of(count: int, M: Tensor) -> tuple[tuple[int, int], ...]:
    """Give the tiles in which so many rows go through a matrix.

    Args:
        count: How many.
        M: (k, m); its numbers do not matter.

    Returns:
        Of each tile how many of the rows it has, and its size.
    """
    columns_first = M.stride(0) == 1 != M.stride(1)
    key = (*M.shape, columns_first, M.dtype, M.device, torch.get_num_threads())
    if key not in _kernels:
        _kernels[key] = _Kernel(M)
    return _kernels[key].tiles(count, M)


class _Kernel:
    """What is known of products with matrices of one shape."""

    def __init__(self, M: Tensor) -> None:
        self._agrees: dict[int, bool] = {}
        self._tiles: dict[int, tuple[tuple[int, int], ...]] = {}
        x = _random_rows(2 * _REFERENCE, M)
        shifted = torch.mm(x[5 : 5 + _REFERENCE].clone(), M)
        if not torch.equal(shifted, _in_references(x, M)[5 : 5 + _REFERENCE]):
            _log.warning(
                "Products of %d rows with a matrix of shape %s depend on where a row is, on %s "
                "with %d threads: what is computed with it depends on which trials share a pass.",
                _REFERENCE, tuple(M.shape), M.device, torch.get_num_threads(),
            )  # fmt: skip

    def tiles(self, count: int, M: Tensor) -> tuple[tuple[int, int], ...]:
        """See `tiles_of`."""
        if count not in self._tiles:
            self._tiles[count] = tuple(self._cut(count, M))
        return self._tiles[count]

    def _cut(self, count: int, M: Tensor) -> Iterator[tuple[int, int]]:
        while count >= _SIZES[-1]:
            whole = min(count, _MOST)
            whole -= whole % (_STEP if whole < _MOST // 2 else 2 * _STEP)
            fitting = (size for size in (whole, *_SIZES) if size <= count)
            size = next((size for size in fitting if self._usable(size, M)), None)
            if size is None:
                break
            yield size, size
            count -= size
        if count:
            smallest = (size for size in reversed(_SIZES) if size >= count)
            yield count, next(size for size in smallest if self._usable(size, M))

    def _usable(self, size: int, M: Tensor) -> bool:
        """Whether the rows of a tile have the bits that they have in one of `_REFERENCE` rows."""
        if size == _REFERENCE:
            return True
        if size not in self._agrees:
            x = _random_rows(size, M)
            self._agrees[size] = torch.equal(torch.mm(x[:size], M), _in_references(x, M)[:size])
        return self._agrees[size]


def _random_rows(count: int, M: Tensor) -> Tensor:
    """Random rows, as many as fill tiles of `_REFERENCE`."""
    whole = -(-count // _REFERENCE) * _REFERENCE
    generator = torch.Generator().manual_seed(0)
    return torch.randn(whole, M.shape[0], generator=generator).to(M.device, M.dtype)


def _in_references(x: Tensor, M: Tensor) -> Tensor:
    return torch.cat([torch.mm(part, M) for part in x.split(_REFERENCE)])


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
