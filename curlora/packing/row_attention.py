"""Attention of every row over its own length, whatever the longest row of the batch is.

Rows of one length, up to a few tokens, are computed together, by the model's own function; those of
other lengths apart. So the shapes that a row's numbers come from follow from the row alone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from curlora.packing.lean_passes import grouped_attention
from curlora.packing.seats import Seats, pick, pick_seats

EAGER, FUSED = "curlora_rows_eager", "curlora_rows_sdpa"
"""The names among the attentions of transformers, by the base's own: they differ in their masks."""

_STEP = 8
"""Tokens to which a row is filled up. With heads of an even width, matrices of so many rows begin
at lines of the cache; with others of twice as many."""


@dataclass(frozen=True)
class _Group:
    """Rows that are computed together."""

    rows: Seats
    count: int
    length: int
    """Of each, filled up."""
    computed: int
    """`count`, or 2 where there would be one matrix only: a batch of one goes another way."""


def _groups(lengths: Sequence[int], step: int, alone: bool, device: torch.device) -> list[_Group]:
    rows_of: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        rows_of.setdefault(-(-length // step) * step, []).append(row)
    return [
        _Group(pick_seats(rows, device), len(rows), length, max(len(rows), 1 + alone))
        for length, rows in sorted(rows_of.items())
    ]


class RowLengths:
    """The lengths of the rows of one batch."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """Take them.

        Args:
            lengths: Tokens of each row that are no padding, at least 1.
            device: Where the batch is.
        """
        self.count = len(lengths)
        self._groups = functools.cache(functools.partial(_groups, tuple(lengths), device=device))

    def groups(self, heads: int, widths: Sequence[int]) -> list[_Group]:
        """The rows in groups of one length, for so many heads of these widths."""
        odd = any(width % 2 for width in widths)
        return self._groups(step=2 * _STEP if odd else _STEP, alone=heads == 1)


_current: ContextVar[RowLengths | None] = ContextVar("curlora_row_lengths", default=None)


def takes_rows(base: Any) -> bool:
    """Whether the attention of a base can be replaced: it is called by its name everywhere."""
    implementation = getattr(base.config, "_attn_implementation", None)
    if not getattr(base, "_supports_attention_backend", False) or base.config.sub_configs:
        return False
    if implementation == "sdpa":
        return True
    attends = [m for m in base.modules() if type(m).__name__.endswith("Attention")]
    return implementation == "eager" and all(_eager(m) is not None for m in attends)


@contextmanager
def row_attention(base: Any, lengths: RowLengths) -> Iterator[None]:
    """Within it a base attends to each row by itself.

    Args:
        base: A model of transformers for which `takes_rows` holds; its config is changed meanwhile.
        lengths: Of the rows of all batches within.
    """
    own = base.config._attn_implementation
    base.config._attn_implementation = EAGER if own == "eager" else FUSED
    token = _current.set(lengths)
    try:
        yield
    finally:
        _current.reset(token)
        base.config._attn_implementation = own


def _eager(module: nn.Module) -> Callable[..., Any] | None:
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


def _by_rows(
    fused: bool,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend, as transformers calls it.

    Args:
        fused: Whether the base's own attention is the fused one.
        module: The attention layer.
        query: (B, H, T, d).
        key: (B, H / n, S, d).
        value: (B, H / n, S, d).
        attention_mask: (B or 1, 1 or H, T, S); None: what follows is not seen.
        **others: What the model's own function takes besides.

    Returns:
        (B, T, H, d), and nothing of the probabilities.
    """
    own: Any = ALL_ATTENTION_FUNCTIONS["sdpa"] if fused else grouped_attention
    lengths = _current.get()
    T = query.shape[2]
    if lengths is None or key.shape[2] != T or len(query) != lengths.count:
        # Tokens that are written one by one.
        own = own if fused else _eager(module)
        return own(module, query, key, value, attention_mask, **others)
    # Grouped attention has as many matrices as there are heads of keys.
    groups = lengths.groups(key.shape[1], (query.shape[-1], value.shape[-1]))
    parts = [_Parted.apply(x, groups) for x in (query, key, value)]
    found: list[Tensor] = []
    for group, q, k, v in zip(groups, *parts, strict=True):  # pyright: ignore[reportArgumentType]
        mask = None if attention_mask is None else _fitted(attention_mask, group)
        extra = {name: _fitted(x, group) if _is_square(x, T) else x for name, x in others.items()}
        found.append(own(module, q, k, v, mask, **extra)[0])
    return _Joined.apply(T, groups, *found), None  # pyright: ignore[reportReturnType]


def _is_square(value: Any, T: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2:] == (T, T)


def _fitted(mask: Tensor, group: _Group) -> Tensor:
    """The part of a mask (or of a bias) that a group needs: what is filled up is not seen."""
    own = mask if len(mask) == 1 else pick(mask, group.rows)
    own = own[..., : group.length, : group.length]
    missing = group.length - own.shape[-1]
    if missing > 0:
        unseen = False if own.dtype == torch.bool else torch.finfo(own.dtype).min
        own = nn.functional.pad(own, (0, missing), value=unseen)
        # What is filled up sees what the last token sees: something, or there would be no numbers.
        own = torch.cat([own, own[..., -1:, :].expand(*own.shape[:-2], missing, -1)], -2)
    return own


class _Parted(torch.autograd.Function):
    """(B, H, T, d) to a contiguous (n, H, length, d) for each group, filled up with zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: list[_Group]) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.groups, ctx.shape = groups, x.shape
        parts: list[Tensor] = []
        for group in groups:
            T = min(x.shape[2], group.length)
            part = x.new_empty(group.computed, x.shape[1], group.length, x.shape[3])
            part[:, :, :T] = pick(x, group.rows)[:, :, :T]
            part[:, :, T:] = 0
            parts.append(part)
        return tuple(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        whole = gradients[0].new_zeros(ctx.shape)
        for group, G in zip(ctx.groups, gradients, strict=True):
            T = min(ctx.shape[2], group.length)
            whole[group.rows, :, :T] = G[: group.count, :, :T]
        return whole, None


class _Joined(torch.autograd.Function):
    """(n, length, H, d) of each group to one (B, T, H, d), zero beyond a row's length."""

    @staticmethod
    def forward(ctx: Any, T: int, groups: list[_Group], *parts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.groups, ctx.shapes = groups, [part.shape for part in parts]
        count = sum(group.count for group in groups)
        whole = parts[0].new_zeros(count, T, *parts[0].shape[2:])
        for group, part in zip(groups, parts, strict=True):
            whole[group.rows, : group.length] = part[: group.count, :T]
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        parts: list[Tensor] = []
        for group, shape in zip(ctx.groups, ctx.shapes, strict=True):
            own = pick(G, group.rows)[:, : group.length]
            part = G.new_zeros(shape)
            part[: group.count, : own.shape[1]] = own
            parts.append(part)
        return None, None, *parts


AttentionInterface.register(EAGER, functools.partial(_by_rows, False))
AttentionInterface.register(FUSED, functools.partial(_by_rows, True))
AttentionMaskInterface.register(EAGER, eager_mask)
AttentionMaskInterface.register(FUSED, sdpa_mask)
