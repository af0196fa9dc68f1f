"""Cheaper passes of a frozen 16-bit base on a CPU: RMSNorm and attention that keep less.

What autograd makes of a norm written in plain operations reads and writes the activations a dozen
times, and eager attention repeats every key and value head for each head of queries. Here a norm is
two functions with the same forward bits, and attention multiplies all query heads that share keys
and values at once. Nothing else of the base is touched: a norm is replaced only if it gives the
same bits on random input, attention only if its first call agrees with the model's own.

References:
    Zhang and Sennrich (2019), Eq. 4 (RMSNorm). https://arxiv.org/abs/1910.07467
    Ainslie et al. (2023), Sec. 2.2 (grouped-query attention). https://arxiv.org/abs/2305.13245
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

ATTENTION = "curlora_grouped"
"""The name of the attention among those of transformers."""

_AGREES = {2: 0.05, 4: 1e-4, 8: 1e-4}
"""Largest difference from the model's own attention, relative to its largest output, by the bytes
of a number."""


class LeanPasses:
    """A base whose norms, and within `attention` its attention, are the ones of this module."""

    step = 1
    """Batches are as long as their longest row."""

    def __init__(self, base: nn.Module) -> None:
        """Replace what can be; nothing on an accelerator, or in more than 16 bits.

        Args:
            base: A frozen model of transformers.
        """
        self._config: Any = base.config
        parameters = list(base.parameters())
        lean = all(
            # What ZeRO stage 3 has parted cannot be tried out here.
            p.device.type == "cpu" and p.dtype.itemsize == 2 and not hasattr(p, "ds_id")
            for p in parameters
        )
        self._norms = [m for m in base.modules() if _is_norm(m)] if lean else []
        for norm in self._norms:
            norm.forward = functools.partial(_normed, norm)
        attends = [m for m in base.modules() if type(m).__name__.endswith("Attention")]
        self._grouped = (
            lean
            and getattr(self._config, "_attn_implementation", None) == "eager"
            and all(_own_attention(m) is not None for m in attends)
        )

    @contextmanager
    def attention(self, lengths: Sequence[int] = ()) -> Iterator[None]:  # noqa: ARG002
        """Use the attention of this module for a while, where the base has the eager one."""
        if not self._grouped:
            yield
            return
        self._config._attn_implementation = ATTENTION
        try:
            yield
        finally:
            self._config._attn_implementation = "eager"

    def undo(self) -> None:
        """Give the norms their own `forward` back."""
        for norm in self._norms:
            del norm.forward
        self._norms, self._grouped = [], False


def _is_norm(module: Any) -> bool:
    """Whether a module is an RMSNorm in float32 with frozen weights, to the last bit."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1 or not isinstance(eps, float):
        return False
    if weight.requires_grad or "forward" in vars(module):
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(weight), generator=generator).to(weight.dtype) * 3
    with torch.no_grad():
        return torch.equal(module(x), _RMSNorm.apply(x, weight, eps))  # pyright: ignore[reportArgumentType]


def _normed(norm: Any, x: Tensor) -> Tensor:
    return _RMSNorm.apply(x, norm.weight, norm.variance_epsilon)  # pyright: ignore[reportReturnType]


class _RMSNorm(torch.autograd.Function):
    """w x / sqrt(mean(x^2) + eps) over the last dimension, computed in float32."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor, eps: float
    ) -> Tensor:
        wide = x.float()
        scale = wide.pow(2).mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return wide.mul_(scale).to(x.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, G: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        g = (G * weight).float()
        normed = x.float().mul_(scale)
        along = torch.linalg.vecdot(g, normed).div_(x.shape[-1]).unsqueeze_(-1)
        return g.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), None, None


class _GroupedAttention(torch.autograd.Function):
    """softmax(scaling Q K' + mask) V, the query heads of one key head as rows of one matrix."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        B, H, T, d = query.shape
        kv, S = key.shape[1:3]
        Q = query.reshape(B * kv, -1, d)
        K, V = key.reshape(B * kv, S, d), value.reshape(B * kv, S, -1)
        scores = torch.bmm(Q, K.mT).mul_(scaling)
        if mask is not None:
            scores.view(B, kv, H // kv, T, S).add_(mask[:, :, None, :, :S])
        P = torch.softmax(scores, -1)
        ctx.save_for_backward(Q, K, V, P)
        ctx.scaling, ctx.shapes = scaling, (query.shape, key.shape, value.shape)
        return torch.bmm(P, V).view(B, H, T, -1).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, G: Tensor
    ) -> tuple[Tensor | None, ...]:
        Q, K, V, P = ctx.saved_tensors
        query, key, value = ctx.shapes
        G = G.transpose(1, 2).reshape(*Q.shape[:2], -1)
        dV = torch.bmm(P.mT, G)
        dP = torch.bmm(G, V.mT)
        dS = torch.ops.aten._softmax_backward_data(dP, P, -1, P.dtype).mul_(ctx.scaling)
        dQ, dK = torch.bmm(dS, K), torch.bmm(dS.mT, Q)
        return dQ.view(query), dK.view(key), dV.view(value), None, None


_agreement: dict[type, bool] = {}
"""Whether the attention of a class of layers is this one, by its first call."""


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend, as transformers calls it; by the model's own function where that does more.

    Args:
        module: The attention layer.
        query: (B, H, T, d).
        key: (B, H / n, S, d).
        value: (B, H / n, S, d).
        attention_mask: Added to the scores, (B or 1, 1, T, S); None: nothing.
        scaling: Of the scores.
        dropout: Of the probabilities.
        **others: What the model's own function takes besides.

    Returns:
        (B, T, H, d), and the probabilities where the model's own function was called.
    """
    own = functools.partial(
        _own_attention(module), module, query, key, value, attention_mask, dropout=dropout, **others
    )
    extra = {name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None}
    if scaling is None:
        return own()
    if dropout or extra or query.shape[1] % key.shape[1] or not _agreement.get(type(module), True):
        return own(scaling=scaling)
    found: Any = _GroupedAttention.apply(query, key, value, attention_mask, scaling)
    if type(module) not in _agreement:
        with torch.no_grad():
            wanted = own(scaling=scaling)[0]
            gap = (found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)
        _agreement[type(module)] = wanted.shape == found.shape and (
            float(gap) <= _AGREES[query.element_size()]
        )
        if not _agreement[type(module)]:
            return own(scaling=scaling)
    return found, None


def _own_attention(module: nn.Module) -> Callable[..., Any]:
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)  # pyright: ignore[reportReturnType]


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
