"""What is observed of an example and of an adapted layer, and in which precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Params = Mapping[str, Tensor]
"""An adapter's trainable tensors by name."""
Derivative = Literal["gradients", "linear", "weights"]
"""A kind of derivative an observation may hold: see `Observation`."""


@dataclass(frozen=True)
class Observation:
    """The derivatives of one example's log-probability, the sum over its scored tokens.

    Tensors are in float32 or better, whatever the model computes in.
    """

    gradients: dict[str, Tensor] = field(default_factory=dict)
    """d log p / d parameter by parameter, each in the parameter's shape; empty if not asked for."""
    linear: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """For each parameter P (m, n) that acts as z = P h: h (tokens, n) and d log p / d z (tokens,
    m); empty if not asked for."""
    weights: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """For each adapted layer: its input x (tokens, d_in) and d log p / d y of its output (tokens,
    d_out); empty if not asked for."""
    scored: int = 1
    """How many tokens the log-probability is a sum over, where the loss is a mean over tokens."""


@dataclass(frozen=True)
class AdaptedLayer:
    """A layer whose weight an adapter updates by a product of matrices: scale x M_1 M_2 ... M_k.

    LoRA: B A with its scaling. CURLoRA: C U R with alpha.
    """

    shape: tuple[int, int]
    """(d_out, d_in), also where the base stores its weight transposed."""
    scale: float
    """What the product is multiplied by."""
    factors: tuple[str | Tensor, ...]
    """The matrices from the output to the input: a parameter's name, or a frozen tensor."""


def statistic(tensor: Tensor) -> Tensor:
    """Give a detached tensor in the precision in which statistics are kept.

    Args:
        tensor: Of any floating dtype.

    Returns:
        In float32, or float64 where it was so.
    """
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
