"""Which columns and rows of a weight CURLoRA keeps. Pure functions, no model and no PEFT.

Shapes, here and in the whole package: `W` (d_out, d_in) is the frozen weight, `C` (d_out, r) holds
r of its columns, `R` (r, d_in) r of its rows, `U` (r, r) is what trains, and W' = W + alpha C U R.

References:
    Fawi (2024), "CURLoRA: Stable LLM Continual Fine-Tuning and Catastrophic Forgetting Mitigation",
    Eq. 3-8. https://arxiv.org/abs/2408.14572

Deviations from the paper:
    - Sampling is without replacement by default (a repeated column makes `C` rank-deficient).
    - The inverted law carries a temperature: p~_j is proportional to (p_j + eps)^(-1/temperature).
      At temperature 1 and eps 0 it is the paper's Eq. 4 and 6.
    - The author's code adds eps = 1e-3 to every share, which the paper does not mention. A share is
      about 1/4096 in a large layer, so that law is nearly uniform. The default here is 0, and a
      column without energy is never drawn; `preset: author` of `CurloraConfig` restores the code's
      law.
    - Draws follow from a seed and the module's name, not from the global state of a generator.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from curlora_kinds.adapters import curlora

Law = Literal["inverted", "uniform", "energy"]

# Rows read at once in float64: 32 MiB for a weight with 4096 columns.
_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Selection:
    """The columns and rows kept of one weight, and how spread the laws were that drew them."""

    columns: Tensor
    """Indices of the columns in `C`, int64 (r,), in the order drawn."""
    rows: Tensor
    """Indices of the rows in `R`, int64 (r,), in the order drawn."""
    column_perplexity: float
    """Perplexity of the law over columns, in [1, d_in]: d_in means uniform."""
    row_perplexity: float
    """Perplexity of the law over rows, in [1, d_out]: d_out means uniform."""


@dataclass(frozen=True)
class SelectionRule:
    """How the columns and rows of every adapted weight are drawn."""

    law: Law = "inverted"
    """`inverted` (the paper) favours columns with little energy; the others are controls."""
    temperature: float = 1.0
    """Positive. Towards 0 only the least energetic columns are drawn; towards infinity, any."""
    eps: float = 0.0
    """Added to every share of energy, at least 0. At 0 a column without energy is never drawn."""
    with_replacement: bool = False
    """Draw the same column several times if chance has it, as the author's code does."""
    seed: int = 0
    """Where the draws come from, together with the module's name."""

    def __post_init__(self) -> None:
        """Refuse settings that define no law, as the kind of adapter does."""
        curlora.KIND.complete(
            {
                "selection": self.law,
                "temperature": self.temperature,
                "eps": self.eps,
                "with_replacement": self.with_replacement,
                "selection_seed": self.seed,
            }
        )

    def select(
        self, W: Tensor, r: int, *, name: str, shares: tuple[Tensor, Tensor] | None = None
    ) -> Selection:
        """Draw `r` columns and `r` rows of `W`.

        The indices for r are a prefix of those for 2r, so adapters of every rank at one temperature
        share their columns and rows.

        Args:
            W: The frozen weight (d_out, d_in), of any floating dtype.
            r: How many of each, from 1 to min(d_out, d_in).
            name: The module's name in its model: every module draws its own indices.
            shares: What `energy_shares` gives of `W`, where it has been computed before.

        Returns:
            The indices, on the CPU.

        Raises:
            ValueError: `W` has no finite energy, or fewer than `r` columns or rows can be drawn.
        """
        columns, rows = energy_shares(W) if shares is None else shares
        column_law = log_law(columns, self.law, temperature=self.temperature, eps=self.eps)
        row_law = log_law(rows, self.law, temperature=self.temperature, eps=self.eps)
        return Selection(
            columns=self._draw(column_law, r, f"{name}|columns"),
            rows=self._draw(row_law, r, f"{name}|rows"),
            column_perplexity=perplexity(column_law),
            row_perplexity=perplexity(row_law),
        )

    def _draw(self, law: Tensor, r: int, stream: str) -> Tensor:
        generator = torch.Generator().manual_seed(_stream_seed(self.seed, stream))
        draw = draw_with_replacement if self.with_replacement else draw_without_replacement
        return draw(law, r, generator)


def energy_shares(W: Tensor) -> tuple[Tensor, Tensor]:
    """Give the share of the squared energy of `W` that each column and each row holds.

    p_j = ||W_:j||^2 / ||W||_F^2 (Fawi 2024, Eq. 3 and 5).

    Args:
        W: A weight (d_out, d_in).

    Returns:
        Shares of the columns (d_in,) and of the rows (d_out,), float64 on the CPU, each summing to
        1.

    Raises:
        ValueError: `W` is all zeros, or holds a NaN or an infinity.
    """
    columns = torch.zeros(W.shape[1], dtype=torch.float64, device=W.device)
    row_blocks: list[Tensor] = []
    for start in range(0, W.shape[0], _BLOCK_ROWS):
        squares = W[start : start + _BLOCK_ROWS].to(torch.float64).square()
        columns += squares.sum(dim=0)
        row_blocks.append(squares.sum(dim=1))
    rows = torch.cat(row_blocks).cpu()
    columns = columns.cpu()
    total = float(rows.sum())
    if not (math.isfinite(total) and total > 0):
        raise ValueError(
            f"The weight has a squared norm of {total}, so its columns have no shares of it. "
            "Load the weights of the base model before attaching an adapter."
        )
    return columns / total, rows / total


def log_law(shares: Tensor, law: Law, *, temperature: float, eps: float) -> Tensor:
    """Give the logarithm of the probability with which each column (or row) is drawn.

    Computed in log space, so that neither a temperature of 0.05 nor one of 1e6 over- or underflows.

    Args:
        shares: Shares of energy (n,), float64.
        law: `inverted`: proportional to (p + eps)^(-1/temperature), Eq. 4 and 6 of Fawi (2024) at
            temperature 1; `energy`: (p + eps)^(1/temperature); `uniform`: all alike.
        temperature: Positive.
        eps: At least 0; at 0 no law draws a column without energy.

    Returns:
        Log probabilities (n,), float64, -inf where nothing is drawn.
    """
    padded = shares + eps
    exponent = {"inverted": -1.0 / temperature, "uniform": 0.0, "energy": 1.0 / temperature}[law]
    drawable = padded > 0
    scores = torch.where(drawable, padded, 1.0).log() * exponent
    return torch.log_softmax(torch.where(drawable, scores, -math.inf), dim=0)


def perplexity(log_probabilities: Tensor) -> float:
    """Give the exponential of a law's entropy: over how many columns it effectively spreads.

    Args:
        log_probabilities: Log probabilities (n,), as `log_law` returns them.

    Returns:
        A number in [1, n]; n for the uniform law.
    """
    drawable = log_probabilities[torch.isfinite(log_probabilities)]
    return math.exp(-float((drawable.exp() * drawable).sum()))


def draw_without_replacement(law: Tensor, r: int, generator: torch.Generator) -> Tensor:
    """Draw r distinct indices, one after the other from what is left (Gumbel top-r).

    Args:
        law: Log probabilities (n,), float64.
        r: How many indices.
        generator: Where the noise comes from, on the CPU.

    Returns:
        Indices (r,), int64, in the order drawn: the first r of any longer draw.

    Raises:
        ValueError: Fewer than `r` indices have a probability above 0.
    """
    drawable = int(torch.isfinite(law).sum())
    if r > drawable:
        raise ValueError(
            f"`r` is {r}, but only {drawable} of {law.numel()} columns or rows have energy. "
            "Lower `r`, or set `eps` above 0 to let the empty ones be drawn."
        )
    keys = law + _gumbel_noise(law.numel(), generator)
    return torch.argsort(keys, descending=True, stable=True)[:r]


def draw_with_replacement(law: Tensor, r: int, generator: torch.Generator) -> Tensor:
    """Draw r indices independently, as the author's code does.

    Args:
        law: Log probabilities (n,), float64.
        r: How many indices, at most n.
        generator: Where the noise comes from, on the CPU.

    Returns:
        Indices (r,), int64, possibly repeated: the first r of any longer draw.
    """
    cumulative = law.exp().cumsum(dim=0)
    uniform = torch.rand(law.numel(), generator=generator, dtype=torch.float64)[:r]
    return torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)


def _gumbel_noise(count: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    return -(-uniform.clamp(min=torch.finfo(torch.float64).tiny).log()).log()


def _stream_seed(seed: int, stream: str) -> int:
    digest = hashlib.sha256(f"{seed}|{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # manual_seed wants less than 2^63
