"""A linear layer whose rows go through different adapters: one product with W, batched ones beside.

Shapes: `x` (B, T, d_in) and `y` (B, T, d_out) are a batch of B rows of T tokens; `C` (d_out, r),
`U` (r, r), `R` (r, d_in) as in `curlora.cur.forms`; `A` (r, d_in) and `B` (d_out, r) of LoRA;
`M` (d_out,) of DoRA. `C` and `B` are kept transposed, (r, d_out).

The rows of a batch are parted into *segments*, one for each family of adapters and one for each
selection of columns and rows that several CURLoRA adapters share. A segment is cut into *blocks*,
equally many rows of one adapter each, and every product of a segment is one batched product over
its blocks, or one plain product where the factor is shared.

CURLoRA needs neither `x` nor a second reading of the gradient, because its factors are parts of W:

    forward     y0 = x W'          h = y0[rows]             y  = y0 + alpha (h U') C'
    backward    dx0 = G W          dz = alpha dx0[columns]  dx = dx0 + (dz U) R,  dU = dz' h

`alpha G C = dx0[columns]` holds as `C = W[:, columns]`. The bias is added last, so `h` needs no
subtraction of it and loses nothing in 16 bits.

References:
    Fawi (2024), Eq. 8. https://arxiv.org/abs/2408.14572
    Hu et al. (2021), Eq. 3. https://arxiv.org/abs/2106.09685
    Liu et al. (2024), Eq. 5 and Sec. 4.3 (the norm is a constant to the gradient).
    https://arxiv.org/abs/2402.09353
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from curlora.packing.parameters import SeatedParameters
from curlora.packing.selections import CurSelections
from curlora.packing.tiles import FrozenMatrix


class PackedLayer:
    """Takes the place of a linear layer's `forward`; outside of a tick the layer is itself."""

    def __init__(self, name: str, module: nn.Module) -> None:
        """Hook a layer.

        Args:
            name: Its name in the base.
            module: An `nn.Linear` or `Conv1D`.
        """
        self.name = name
        self.module: Any = module
        self.transposed = isinstance(module, Conv1D)
        # Not the weight's shape: one that ZeRO stage 3 has parted is empty but while it is used.
        if self.transposed:
            self.d_out, self.d_in = self.module.nf, self.module.nx
        else:
            self.d_out, self.d_in = self.module.out_features, self.module.in_features
        self.selections = CurSelections()
        self.matrix: FrozenMatrix | None = None
        """Its weight for products in tiles; None: products of whole batches."""
        self.direction_norms: tuple[int, dict[int, Tensor]] = (-1, {})
        """Of an invariant pack, those of DoRA by seat, and as of which version of its family."""
        self.tick: Tick | None = None
        self._row_norms: Tensor | None = None
        self._forward = module.forward
        self.module.forward = self

    def unhook(self) -> None:
        """Give the layer its own `forward` back."""
        del self.module.forward

    def weight(self) -> Tensor:
        """Give W (d_out, d_in)."""
        weight: Tensor = self.module.weight.detach()
        return weight.t() if self.transposed else weight

    def times(self, x: Tensor) -> Tensor:
        """Give x W' for x (..., d_in), without a graph."""
        return linear(x, self.weight()) if self.matrix is None else self.matrix.times(x)

    def back(self, G: Tensor) -> Tensor:
        """Give G W for G (..., d_out), without a graph."""
        if self.matrix is not None:
            return self.matrix.back(G)
        return (G.view(-1, self.d_out) @ self.weight()).view(*G.shape[:-1], self.d_in)

    def row_norms(self, dtype: torch.dtype) -> Tensor:
        """Give the squared norms of W's rows (d_out,), read once."""
        if self._row_norms is None:
            self._row_norms = self.weight().to(dtype).square().sum(1)
        return self._row_norms

    def __call__(self, x: Tensor) -> Tensor:
        """Run the layer with the adapter of each row.

        Args:
            x: (B, ..., d_in).

        Returns:
            (B, ..., d_out).

        Raises:
            RuntimeError: Autocast is on.
            ValueError: The first dimension is not that of the batch.
        """
        tick = self.tick
        if tick is None or not tick.segments:
            return self._bare(x)
        if torch.is_autocast_enabled(x.device.type):
            raise RuntimeError(
                "A pack does not run under autocast. Load the base in the dtype to compute in; "
                "the adapters are kept in float32 anyway."
            )
        if x.ndim < 2 or x.shape[0] != tick.rows:
            raise ValueError(
                f"`{self.name}` was given an input of shape {tuple(x.shape)}, but the slots of "
                f"{tick.rows} rows were named. Give `rows` one slot for every row of the batch, "
                "and pack only layers whose input has the batch first."
            )
        y = _PackedLinear.apply(x.reshape(tick.rows, -1, self.d_in), tick.anchor, self, tick)
        return y.view(*x.shape[:-1], self.d_out)

    def _bare(self, x: Tensor) -> Tensor:
        if self.matrix is None:
            return self._forward(x)
        y = self.matrix.linear(x)
        return y if self.module.bias is None else y + self.module.bias


class Segment(Protocol):
    """Some rows of a batch and their adapters."""

    seated: SeatedParameters
    needs_input: bool
    """Whether the backward pass reads x."""

    def forward(self, layer: PackedLayer, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Add the adapters to the segment's rows of y, in place.

        Args:
            layer: The layer.
            x: Its input (B, T, d_in).
            y: x W', without the bias (B, T, d_out).

        Returns:
            What the backward pass needs.
        """
        ...

    def through(self, kept: tuple[Tensor, ...], G: Tensor) -> Tensor:
        """Turn the gradient of the output into that of x W', in a copy if they differ."""
        ...

    def backward(
        self,
        layer: PackedLayer,
        kept: tuple[Tensor, ...],
        x: Tensor | None,
        gradients: tuple[Tensor, Tensor],
        dx: Tensor | None,
    ) -> None:
        """Add to the gradients of the adapters, and of x.

        Args:
            layer: The layer.
            kept: What `forward` gave.
            x: The input, where `needs_input`.
            gradients: Of the output and of x W' (B, T, d_out); read only.
            dx: The second one times W (B, T, d_in), changed in place; None if nobody asks for it.
        """
        ...


@dataclass
class Tick:
    """One batch: the segments its rows fall into."""

    rows: int
    segments: list[Segment] = field(default_factory=list)
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    """Requires a gradient, so that autograd goes back through layers whose input does not."""


@contextmanager
def ticking(layers: Sequence[PackedLayer], tick: Tick) -> Iterator[None]:
    """Run the layers on one batch.

    Args:
        layers: All layers of the pack.
        tick: The batch.

    Yields:
        Nothing; afterwards the layers are themselves again.
    """
    for layer in layers:
        layer.tick = tick
    try:
        yield
    finally:
        for layer in layers:
            layer.tick = None


class _PackedLinear(torch.autograd.Function):
    """x W' + bias with every row's adapter; adds to the adapters' gradients where they are kept."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, anchor: Tensor, layer: PackedLayer, tick: Tick
    ) -> Tensor:
        del anchor
        y = layer.times(x)
        kept = [segment.forward(layer, x, y) for segment in tick.segments]
        if layer.module.bias is not None:
            y.add_(layer.module.bias)
        needs_input = any(segment.needs_input for segment in tick.segments)
        ctx.layer, ctx.tick = layer, tick
        ctx.versions = [segment.seated.version for segment in tick.segments]
        ctx.lengths = [len(tensors) for tensors in kept]
        ctx.save_for_backward(x if needs_input else None, *itertools.chain(*kept))
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, G: Tensor
    ) -> tuple[Tensor | None, ...]:
        layer, tick = ctx.layer, ctx.tick
        if ctx.versions != [segment.seated.version for segment in tick.segments]:
            raise RuntimeError(
                "The pack was changed (joined, left, loaded or stepped) between the forward and "
                "the backward pass of a batch. Change it after `backward`."
            )
        x, *tensors = ctx.saved_tensors
        remaining = iter(tensors)
        kept = [tuple(itertools.islice(remaining, length)) for length in ctx.lengths]
        G = G.contiguous()
        inner = G
        for segment, own in zip(tick.segments, kept, strict=True):
            inner = segment.through(own, inner)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = layer.back(inner)
        for segment, own in zip(tick.segments, kept, strict=True):
            segment.backward(layer, own, x, (G, inner), dx)
        return dx, None, None, None
