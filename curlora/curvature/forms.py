"""Quadratic forms of a step in each approximation of the Fisher; none is ever negative."""

from torch import Tensor


def diagonal_form(diagonal: Tensor, step: Tensor) -> Tensor:
    """Give d' diag(F) d.

    Args:
        diagonal: Entries of F, in any shape.
        step: d, in the same shape.

    Returns:
        0-dim, at least 0.
    """
    return (diagonal * step.square()).sum()


def kronecker_form(inputs: Tensor, outputs: Tensor, step: Tensor) -> Tensor:
    """Give vec(D)' (A x G) vec(D), vec stacking columns: the trace of D' G D A.

    Args:
        inputs: A (n, n), positive semi-definite.
        outputs: G (m, m), positive semi-definite.
        step: D (m, n).

    Returns:
        0-dim, at least 0: what rounding leaves below zero is cut off.
    """
    return _kronecker(inputs, outputs, step).clamp_min(0)


def coupled_form(
    inputs: tuple[Tensor, Tensor, Tensor], outputs: tuple[Tensor, Tensor, Tensor], A: Tensor,
    B: Tensor,
) -> Tensor:  # fmt: skip
    """Give the form of one LoRA layer with both diagonal blocks and what couples them.

    Args:
        inputs: A_AA (d_in, d_in), A_BB (r, r) and A_AB (d_in, r).
        outputs: G_AA (r, r), G_BB (d_out, d_out) and G_AB (r, d_out).
        A: Step of LoRA's A (r, d_in).
        B: Step of LoRA's B (d_out, r).

    Returns:
        0-dim, at least 0 (see the module's docstring); rounding is cut off.
    """
    between = (A * (outputs[2] @ B @ inputs[2].t())).sum()
    own = _kronecker(inputs[0], outputs[0], A) + _kronecker(inputs[1], outputs[1], B)
    return (own + 2 * between).clamp_min(0)


def full_form(full: Tensor, step: Tensor) -> Tensor:
    """Give d' F d.

    Args:
        full: F (n, n), positive semi-definite.
        step: d with n entries, read in row-major order.

    Returns:
        0-dim, at least 0: what rounding leaves below zero is cut off.
    """
    flat = step.reshape(-1)
    return (flat * (full @ flat)).sum().clamp_min(0)


def _kronecker(inputs: Tensor, outputs: Tensor, step: Tensor) -> Tensor:
    return ((outputs @ step) * (step @ inputs)).sum()
