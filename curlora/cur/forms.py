"""The exact ways to add alpha x (C U R)' to a layer's output, and which of them a layer can use.

Shapes: `x` (..., d_in), `y` (..., d_out), `C` (d_out, r), `U` (r, r), `R` (r, d_in); N is the
number of rows of `x`. None of the forms builds `C U R`, and since `C` and `R` are frozen none keeps
more for the backward pass than one (N, r) tensor.

============ ====================================================== ================================
form         what is computed                                       what it needs
============ ====================================================== ================================
explicit     y + alpha ((x R') U') C'                               nothing: exact on any layer
output reuse the same, with x R' = y[rows] - bias[rows]             y of the very weight; neither x
                                                                    nor R
input side   base(x + z on the columns), z = alpha (x R') U', for   a base that is linear; no C
             C z = W[:, columns] z
fused        base and update as one function: x R' read off the     a frozen weight at hand that
             output, G C off the gradient G W of the input, both    nothing hooks into
             sums in place; on the narrower side of a layer that
             is much wider on the other
============ ====================================================== ================================

References:
    Fawi (2024), Eq. 8 for y = x (W + C U R)'. https://arxiv.org/abs/2408.14572

Deviations from the paper:
    The author's code builds the dense `C U R` at every step. The forms above compute the same sum.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Form = Literal["explicit", "output_reuse", "input_side", "fused"]

# In a reused output the bias cancels. Beyond this multiple of the typical size of x R' (for inputs
# of unit variance) the rounding of the cancellation shows.
LARGEST_BIAS = 4.0


def choose_form(
    *,
    d_in: int,
    d_out: int,
    exact_base: bool,
    fusable: bool,
    adapters: int,
    relative_bias: float,
    low_precision: bool,
) -> Form:
    """Choose the cheapest form that loses no accuracy.

    Args:
        d_in: Width of the input.
        d_out: Width of the output.
        exact_base: Whether the base layer gives exactly x W' + bias: no hooks, no quantised kernel,
            no other adapter below.
        fusable: Whether its weight is frozen, at hand, and used by nothing but its own forward.
        adapters: How many adapters are active; with several the outputs already mix.
        relative_bias: Largest bias at the selected rows over the typical size of x R'; 0 without
            bias.
        low_precision: Whether the layer computes in 16 bits, where y - bias and x + z round
            coarsely.

    Returns:
        The name of the form.
    """
    if not exact_base or adapters != 1:
        return "explicit"
    if fusable:
        return "fused"
    if d_out <= d_in:
        return "output_reuse" if bias_cancels(relative_bias, low_precision) else "explicit"
    return "explicit" if low_precision else "input_side"


def bias_cancels(relative_bias: float, low_precision: bool) -> bool:
    """Say whether y - bias loses no accuracy that shows.

    Args:
        relative_bias: Largest bias at the selected rows over the typical size of x R'.
        low_precision: Whether the layer computes in 16 bits.

    Returns:
        Whether x R' may be read off the output.
    """
    return relative_bias == 0 if low_precision else relative_bias <= LARGEST_BIAS


def explicit(y: Tensor, x: Tensor, C: Tensor, U: Tensor, R: Tensor, alpha: float) -> Tensor:
    """Add the adapter to the output of the base, from the two factors.

    Args:
        y: Output of the base, and of other adapters (..., d_out).
        x: Input of the layer (..., d_in).
        C: Columns of the weight (d_out, r).
        U: The trained core (r, r).
        R: Rows of the weight (r, d_in).
        alpha: Scale of the update.

    Returns:
        y + alpha ((x R') U') C', in the dtype of `y`.
    """
    z = _core(x.to(R.dtype) @ R.t(), U, alpha)
    return _add_product(y, z, C)


def output_reuse(
    y: Tensor, C: Tensor, U: Tensor, rows: Tensor, bias_at_rows: Tensor | None, alpha: float
) -> Tensor:
    """Add the adapter to the output of the base, reading x R' off that output.

    Can be differentiated once.

    Args:
        y: Output of the base alone: exactly x W' + bias (..., d_out).
        C: Columns of the weight (d_out, r).
        U: The trained core (r, r).
        rows: Indices of the selected rows (r,); repeated ones are allowed.
        bias_at_rows: The base's frozen bias at `rows` (r,), or None without bias.
        alpha: Scale of the update.

    Returns:
        y + alpha ((y[rows] - bias[rows]) U') C', in the dtype of `y`.
    """
    out, _ = _OutputReuse.apply(y, C, U, rows, bias_at_rows, alpha)
    return out


def input_side(
    base: Callable[[Tensor], Tensor], x: Tensor, U: Tensor, R: Tensor, columns: Tensor, alpha: float
) -> Tensor:
    """Run the base on an input that carries the adapter.

    Args:
        base: The base layer: x -> x W' + bias.
        x: Input of the layer (..., d_in).
        U: The trained core (r, r).
        R: Rows of the weight (r, d_in).
        columns: Indices of the selected columns (r,); repeated ones are allowed.
        alpha: Scale of the update.

    Returns:
        x W' + bias + alpha ((x R') U') C', in the dtype of the base's output.
    """
    z = _core(x @ R.t(), U, alpha)
    carrying: Tensor = _AddAtColumns.apply(x, columns, z.to(x.dtype))
    return base(carrying)


def _core(h: Tensor, U: Tensor, alpha: float) -> Tensor:
    # r-sized work costs next to nothing in the dtype of U, float32 by default.
    return (h.to(U.dtype) @ U.t()) * alpha


def _add_product(y: Tensor, z: Tensor, C: Tensor) -> Tensor:
    flat = torch.addmm(
        y.reshape(-1, y.shape[-1]), z.reshape(-1, z.shape[-1]).to(y.dtype), C.t().to(y.dtype)
    )
    return flat.view(y.shape)


class _OutputReuse(torch.autograd.Function):
    """Output reuse with one gather and no dense temporary.

    Plain autograd would build a zero (N, d_out) tensor in the backward of the gather. The second
    output, h = x R', is only there to be kept for the backward pass.
    """

    @staticmethod
    def forward(
        y: Tensor, C: Tensor, U: Tensor, rows: Tensor, bias_at_rows: Tensor | None, alpha: float
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(y.device.type, enabled=False):
            h = y.index_select(-1, rows).to(U.dtype)
            if bias_at_rows is not None:
                h = h - bias_at_rows.to(U.dtype)
            return _add_product(y, _core(h, U, alpha), C), h

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, C, U, rows, _, ctx.alpha = inputs
        h = output[1]
        ctx.mark_non_differentiable(h)
        ctx.save_for_backward(C, U, rows, h)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        C, U, rows, h = ctx.saved_tensors
        G = gradients[0]
        grad_y = grad_U = None
        with torch.autocast(G.device.type, enabled=False):
            dz = (G @ C.to(G.dtype)).to(U.dtype) * ctx.alpha
            if ctx.needs_input_grad[2]:
                grad_U = dz.reshape(-1, dz.shape[-1]).t() @ h.reshape(-1, h.shape[-1])
            if ctx.needs_input_grad[0]:
                # Rows may repeat, hence a sum; G may be shared with a residual branch, hence a
                # copy.
                grad_y = G.index_add(-1, rows, (dz @ U).to(G.dtype))
        return grad_y, None, grad_U, None, None, None


class _AddAtColumns(torch.autograd.Function):
    """x.index_add(-1, columns, z), without keeping z for the backward pass as autograd would."""

    @staticmethod
    def forward(x: Tensor, columns: Tensor, z: Tensor) -> Tensor:
        return x.index_add(-1, columns, z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (columns,) = ctx.saved_tensors
        return gradients[0], None, gradients[0].index_select(-1, columns)
