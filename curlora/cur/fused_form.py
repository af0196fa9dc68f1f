"""Base and adapter run as one function, on layers whose frozen weight is at hand."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def fused(
    x: Tensor,
    W: Tensor,
    bias: Tensor | None,
    C: Tensor,
    U: Tensor,
    R: Tensor,
    columns: Tensor,
    rows: Tensor,
    bias_at_rows: Tensor | None,
    alpha: float,
    reads_output: bool,
) -> Tensor:
    """Run the base and the adapter as one function.

    Can be differentiated once, by `x` and `U` alone.

    Args:
        x: Input of the layer (..., d_in), in the dtype of `W`.
        W: The base's frozen weight (d_out, d_in).
        bias: The base's frozen bias (d_out,), or None.
        C: Columns of the weight (d_out, r).
        U: The trained core (r, r).
        R: Rows of the weight (r, d_in).
        columns: Indices of the selected columns (r,); repeated ones are allowed.
        rows: Indices of the selected rows (r,); repeated ones are allowed.
        bias_at_rows: The base's bias at `rows` (r,), or None without bias.
        alpha: Scale of the update.
        reads_output: Whether x R' may be read off the output, see `bias_cancels`.

    Returns:
        x W' + bias + alpha ((x R') U') C', in the dtype of `W`.
    """
    return _Fused.apply(x, W, bias, C, U, R, columns, rows, bias_at_rows, alpha, reads_output)


class _Fused(torch.autograd.Function):
    """Base and adapter with one cheap sum each way, and nothing dense kept.

    Both ways the r numbers a row that the update needs stand in what the base computes anyway: x R'
    in the output at the rows, G C in the gradient of the input, G W, at the columns. They are read
    off there and the update is added in place. Where that side is much the wider one, they are
    computed from the narrow side instead, and the base carries the update across from there: C is
    W at the columns, R is W at the rows.

    A step calls this often enough for the calls themselves to show. Hence one class without
    `setup_context`, and `alpha` as a part of a product.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        W: Tensor,
        bias: Tensor | None,
        C: Tensor,
        U: Tensor,
        R: Tensor,
        columns: Tensor,
        rows: Tensor,
        bias_at_rows: Tensor | None,
        alpha: float,
        reads_output: bool,
    ) -> Tensor:
        d_out, d_in = W.shape
        # In 16 bits the products are rounded to them in any case; the trained U stays in its own.
        core = U.to(x.dtype)
        if _carries(d_in, d_out, x):
            h = x.reshape(-1, d_in) @ R.t()
            z = (h @ core.t()).view(*x.shape[:-1], -1)
            y = nn.functional.linear(x.index_add(-1, columns, z, alpha=alpha), W, bias)
        else:
            y = nn.functional.linear(x, W, bias)
            flat = y.view(-1, d_out)
            if reads_output:
                h = flat.index_select(1, rows)
                if bias_at_rows is not None:
                    h -= bias_at_rows
            else:
                h = x.reshape(-1, d_in) @ R.t()
            flat.addmm_(h @ core.t(), C.t(), alpha=alpha)
        ctx.save_for_backward(W, C, U, R, columns, rows, h)
        ctx.alpha = alpha
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        W, C, U, R, columns, rows, h = ctx.saved_tensors
        d_out, d_in = W.shape
        alpha: float = ctx.alpha
        G = gradient.reshape(-1, d_out)
        grad_x = grad_U = None
        wants_x = ctx.needs_input_grad[0]
        carries = _carries(d_out, d_in, G)
        if wants_x and not carries:
            grad_x = G @ W
            dz = grad_x.index_select(1, columns)
        else:
            dz = G @ C
        if wants_x:
            dh = dz @ U.to(dz.dtype)
            if grad_x is None:
                # G may be shared with a residual branch, hence a copy.
                grad_x = G.index_add(1, rows, dh, alpha=alpha) @ W
            else:
                grad_x.addmm_(dh, R, alpha=alpha)
            grad_x = grad_x.view(*gradient.shape[:-1], d_in)
        if ctx.needs_input_grad[4]:
            # A sum over all rows: in the dtype of U, which may have a wider range. With `beta` 0
            # the first U is not read.
            dz = dz.to(U.dtype)
            grad_U = torch.addmm(U, dz.t(), h.to(U.dtype), beta=0, alpha=alpha)
        return grad_x, None, None, None, grad_U, *(None,) * 6


def _carries(narrow: int, wide: int, values: Tensor) -> bool:
    # A product with the r factors and a scattered sum over n numbers cost about as much as a
    # gather and an in-place product over 1.5 n. In 16 bits the sum would round coarsely.
    return wide >= 2 * narrow and values.dtype.itemsize >= 4
