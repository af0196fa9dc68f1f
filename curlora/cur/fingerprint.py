"""Is this the weight an adapter was made on? A few numbers of it, kept beside the adapter.

A CURLoRA adapter stores no part of the base: `C` and `R` are read again from whatever weight it is
loaded on. On another weight they would be other columns and rows, and `U` would mean nothing. The
fingerprint of a weight `W` (d_out, d_in) is a float32 vector (2 + 64 + 2 r):

    [rounding, ||W||_F, q_i' W v_k for i, k in 1..8, norms of the columns, norms of the rows]

with eight fixed vectors of random signs on either side, and the norms of the selected columns and
rows. `rounding` is the relative rounding of the dtype the weight was kept in.
"""

import torch
from torch import Tensor

PROJECTIONS = 8
SKETCH = PROJECTIONS**2  # 64 numbers for the price of 8: their mean square hardly fluctuates
# A quantised weight is off by this much before anything is wrong (4-bit NormalFloat: about 0.1).
QUANTISED_ROUNDING = 0.12
FLOAT_LIMIT = 0.01
QUANTISED_LIMIT = 0.15

_SIGN_SEED = 20240827
_BLOCK_ROWS = 1024


def rounding_of(weight: Tensor, *, quantised: bool) -> float:
    """Give the relative error with which a dtype keeps a weight.

    Args:
        weight: The weight as it is stored, or dequantised.
        quantised: Whether it comes from a quantised layer.

    Returns:
        Half the machine epsilon of a floating dtype (bfloat16: 0.0039), or `QUANTISED_ROUNDING`.
    """
    return QUANTISED_ROUNDING if quantised else torch.finfo(weight.dtype).eps / 2


def sketch(W: Tensor) -> Tensor:
    """Summarise a weight, whatever is selected of it.

    Args:
        W: The weight (d_out, d_in).

    Returns:
        Its norm and the 64 numbers of its sketch, float32 (65,) on the CPU.
    """
    d_out, d_in = W.shape
    generator = torch.Generator().manual_seed(_SIGN_SEED)
    v = _random_signs(d_in, generator).to(W.device)
    q = _random_signs(d_out, generator).to(W.device)
    squared_norm = torch.zeros((), dtype=torch.float64, device=W.device)
    found = torch.zeros(PROJECTIONS, PROJECTIONS, dtype=torch.float64, device=W.device)
    for start in range(0, d_out, _BLOCK_ROWS):
        block = W[start : start + _BLOCK_ROWS].float()
        squared_norm += block.square().sum()
        found += q[start : start + _BLOCK_ROWS].t() @ (block @ v)
    return torch.cat([squared_norm.sqrt().float()[None], found.flatten().float()]).cpu()


def fingerprint(
    W: Tensor, columns: Tensor, rows: Tensor, *, rounding: float, known: Tensor | None = None
) -> Tensor:
    """Summarise a weight by its norm, a sketch of it and the norms of what was selected.

    Args:
        W: The weight (d_out, d_in).
        columns: Selected columns (r,).
        rows: Selected rows (r,).
        rounding: As `rounding_of` gives it.
        known: What `sketch` gives of `W`, where it has been computed before.

    Returns:
        A float32 vector (2 + 64 + 2 r) on the CPU.
    """
    column_norms = W.index_select(1, columns.to(W.device)).float().norm(dim=0)
    row_norms = W.index_select(0, rows.to(W.device)).float().norm(dim=1)
    whole = sketch(W) if known is None else known
    return torch.cat([torch.tensor([rounding]), whole, column_norms.cpu(), row_norms.cpu()])


def deviation(saved: Tensor, current: Tensor) -> float:
    """Give how far two fingerprints of the same selection lie apart, relative to the weight.

    Args:
        saved: The fingerprint kept with the adapter (n,).
        current: The fingerprint of the weight at hand (n,).

    Returns:
        The larger of the relative deviation of the norms and of the sketch; 0 means equal.
        Independent weights of the same scale are about 1.4 apart.
    """
    saved, current = saved.double(), current.double()
    first_norm = 2 + SKETCH
    norms = _relative(saved[first_norm:], current[first_norm:], saved[first_norm:].norm())
    # Every entry of the sketch has the expected square ||W||_F^2.
    scale = saved[1] * SKETCH**0.5
    return max(norms, _relative(saved[2:first_norm], current[2:first_norm], scale))


def tolerances(saved: Tensor, current: Tensor) -> tuple[float, float]:
    """Give what deviation is mere rounding, and what is another weight.

    Args:
        saved: The fingerprint kept with the adapter.
        current: The fingerprint of the weight at hand.

    Returns:
        The deviation from which to warn, and the one from which to refuse.
    """
    rounding = max(float(saved[0]), float(current[0]))
    return rounding, FLOAT_LIMIT if rounding < FLOAT_LIMIT else QUANTISED_LIMIT


def _relative(saved: Tensor, current: Tensor, scale: Tensor) -> float:
    gap = float((saved - current).norm())
    return gap / float(scale) if float(scale) > 0 else gap


def _random_signs(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count, PROJECTIONS), generator=generator).float() * 2 - 1
