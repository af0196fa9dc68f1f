"""Settings of a SECURA adapter as a PEFT config, and the rules that they name."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import PeftConfig
from torch import Tensor

from curlora.cur.selection import Selection, energy_shares
from curlora.peft_bridge import peft_type
from curlora_kinds.adapters import secura

Norm = Literal["none", "released", "bounded"]
MergeRule = Literal["none", "M1", "M2"]
Start = Literal["truncated", "released"]

_EPS = 1e-10  # of the author's code


@dataclass
class SecuraConfig(PeftConfig):
    """Settings of a SECURA adapter.

    References:
        Zhang (2025). https://arxiv.org/abs/2502.18168
    """

    r: int = 16
    """Columns and rows kept of each weight (the code's `CURdivideRank`, 150 there)."""
    m: int | None = None
    """Inner width of the core, above r and at most d_in (`ABdivideRank`, 200). Default: 4/3 r."""
    norm: Norm = "bounded"
    """How the change is held back; see `curlora.adapters.secura`."""
    s: float = 6.0
    """Steepness of the sigmoid, positive."""
    merge: MergeRule = "none"
    """What `after_step` does."""
    merge_every: int = 1
    """Optimiser steps between merges (`FusionStep`)."""
    edge: float = 1.2
    """An element counts as strongly changed when its S is at most this (`EdgeNum`)."""
    share: float = 0.9
    """The share of such elements above which the update is damped, in [0, 1] (`Percent`)."""
    decay: float = 0.99
    """By how much, in (0, 1] (`decayRatio`)."""
    init: Start = "truncated"
    """Where `A` starts; see `curlora.adapters.secura`."""
    target_modules: list[str] | str | None = None
    """Names (by suffix), a regular expression, or "all-linear". Default: q, k and v where known."""
    exclude_modules: list[str] | str | None = None
    """Modules left out although `target_modules` names them."""
    modules_to_save: list[str] | None = None
    """Modules trained in full and saved with the adapter."""
    allow_base_mismatch: bool = False
    """Load the adapter even where the base is not the one it was made on. Not saved."""

    def __post_init__(self) -> None:
        """Complete the inner width and refuse what cannot work."""
        super().__post_init__()
        self.peft_type = peft_type("SECURA")
        values = secura.KIND.complete({name: getattr(self, name) for name in secura.KIND.settings})
        self.m = secura.secura_width(values)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list | tuple):  # PEFT matches by membership
                setattr(self, name, set(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Give the settings that are saved: all but the leave to load on another base."""
        return super().to_dict() | {"allow_base_mismatch": False}


def least_norm(W: Tensor, r: int) -> Selection:
    """Choose the r columns and the r rows of least norm, of those that have any.

    Args:
        W: A weight (d_out, d_in).
        r: How many of each.

    Returns:
        The indices, by ascending norm and then position. There is no law, so no perplexity (NaN).

    Raises:
        ValueError: `W` has no finite energy, or fewer than `r` columns or rows with any.
    """
    columns, rows = (_least(shares, r) for shares in energy_shares(W))
    return Selection(columns, rows, column_perplexity=math.nan, row_perplexity=math.nan)


def _least(shares: Tensor, r: int) -> Tensor:
    with_energy = int((shares > 0).sum())
    if r > with_energy:
        raise ValueError(
            f"`r` is {r}, but only {with_energy} of {shares.numel()} columns or rows have energy. "
            "Lower `r`."
        )
    order = torch.where(shares > 0, shares, math.inf)
    return torch.argsort(order, stable=True)[:r]


def initial_A(  # noqa: N802 - A, as in the paper
    W: Tensor, r: int, m: int, init: Start
) -> Tensor:
    """Give where `A` starts.

    Args:
        W: The weight (d_out, d_in).
        r: Rows of `A`, at most min(d_out, d_in).
        m: Columns of `A`, at most d_in.
        init: `truncated`: sigma_i V_ji for i < r, j < m; `released`: the corner W[:r, :m].

    Returns:
        A matrix (r, m) in float32. A decomposition leaves the sign of each V_i open, and a GPU
        chooses others than a CPU: here its largest number is positive, so that a trial starts from
        the same numbers wherever it runs.
    """
    if init == "released":
        return W[:r, :m].float().clone()
    _, sigma, Vh = torch.linalg.svd(W.float(), full_matrices=False)
    largest = Vh.gather(1, Vh.abs().argmax(dim=1, keepdim=True))
    return (sigma[:, None] * Vh * largest.sign())[:r, :m]


def bounded_scale(delta: Tensor, W: Tensor, s: float) -> Tensor:
    """Give S of the bounded norm, element by element.

    Args:
        delta: The update (d_out, d_in).
        W: The weight it changes, likewise.
        s: Steepness.

    Returns:
        2 - sigmoid(s (L / max L - 1/2)), in [2 - sigmoid(s / 2), 2 - sigmoid(-s / 2)]: the larger
        the relative change L of an element, the smaller.
    """
    change = (delta / (W + _EPS)).abs()
    largest = change.max().clamp_min(torch.finfo(change.dtype).tiny)
    return 2 - torch.sigmoid(s * (change / largest - 0.5))


def released_scale(fused: Tensor, base: Tensor, s: float) -> Tensor:
    """Give S of the author's code, element by element.

    Args:
        fused: The output with the update (..., d_out).
        base: The output without it, likewise.
        s: Steepness.

    Returns:
        2 - sigmoid(s L), in [1, 1.5]; 2 where nothing changed at all.
    """
    change = ((fused - base) / (base + _EPS)).abs()
    # The code first computes change / max(change) - 1/2 and then overwrites it, as here.
    scale = 2 - torch.sigmoid(s * change)
    return torch.where(change.any(), scale, torch.full_like(scale, 2.0))
