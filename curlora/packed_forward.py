"""A linear layer whose rows go through different adapters: one product with W, batched ones beside.

Shapes: `x` (B, T, d_in) and `y` (B, T, d_out) are a batch of B rows of T tokens; `C` (d_out, r),
`U` (r, r), `R` (r, d_in) as in `curlora.cur_forward`; `A` (r, d_in) and `B` (d_out, r) of LoRA;
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
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from curlora.packed_parameters import (
    GRADIENTS,
    VALUES,
    SeatedParameters,
    Seats,
    add_to,
    pick,
    pick_seats,
    put_back,
    room_for,
)


class CurSelections:
    """The frozen factors of all selections in a pack, on one layer, padded to the largest rank."""

    def __init__(self) -> None:
        self.ranks: list[int] = []
        self._stacks: tuple[Tensor, ...] | None = None

    def append(self, C: Tensor, R: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Add a selection.

        Args:
            C: (d_out, r).
            R: (r, d_in).
            rows: (r,).
            columns: (r,).
        """
        new = (C.t(), R, rows.long(), columns.long())
        position, r = len(self.ranks), len(rows)
        count, widest = (0, 0) if self._stacks is None else self._stacks[0].shape[:2]
        if position == count or r > widest:
            count = max(count, room_for(position + 1, sys.maxsize))
            self._resize(new, count, max(r, widest))
        assert self._stacks is not None
        for stack, tensor in zip(self._stacks, new, strict=True):
            stack[position, :r] = tensor
            stack[position, r:] = _filler(tensor[:1])
        self.ranks.append(r)

    def pop(self) -> None:
        """Drop the last selection without taking memory; the next uses what it held."""
        assert self._stacks is not None
        self.ranks.pop()
        widest = max(self.ranks, default=0)
        self._stacks = tuple(stack[:, :widest] for stack in self._stacks) if widest else None

    def _resize(self, like: Sequence[Tensor], count: int, rank: int) -> None:
        former = self._stacks
        self._stacks = tuple(tensor.new_zeros(count, rank, *tensor.shape[1:]) for tensor in like)
        if former is None:
            return
        taken, kept = len(self.ranks), former[0].shape[1]
        for old, new in zip(former, self._stacks, strict=True):
            new[:taken, :kept] = old[:taken]
            new[:taken, kept:] = _filler(old[:taken, :1])

    def keep(self, positions: Sequence[int]) -> None:
        """Drop all selections but some.

        Args:
            positions: Of those to keep, in their new order.
        """
        assert self._stacks is not None
        self.ranks = [self.ranks[position] for position in positions]
        if not positions:
            self._stacks = None
            return
        chosen = torch.tensor(positions, device=self._stacks[0].device)
        widest = max(self.ranks)
        self._stacks = tuple(
            stack[:, :widest].index_select(0, chosen).contiguous() for stack in self._stacks
        )

    def bytes_of(self, layer: "PackedLayer", rank: int) -> int:
        """Give how many bytes more will be held once another selection is added.

        Args:
            layer: The layer.
            rank: Of the selection.

        Returns:
            Of its factors and indices, and of the padding of the others.
        """
        taken, widest = len(self.ranks), max(self.ranks, default=0)
        size = (layer.d_out + layer.d_in) * layer.weight().itemsize + 2 * torch.int64.itemsize
        return ((taken + 1) * max(rank, widest) - taken * widest) * size

    def one(self, position: int) -> tuple[Tensor, ...]:
        """Give C', R, rows and columns of one selection, without padding."""
        assert self._stacks is not None
        C, R, rows, columns = (stack[position, : self.ranks[position]] for stack in self._stacks)
        return C, R, rows, columns

    def several(self, positions: Seats) -> tuple[Tensor, ...]:
        """Give C', R, rows, columns and the mask of what is no padding, each (m, r, ...)."""
        assert self._stacks is not None
        C, R, rows, columns = (pick(stack, positions) for stack in self._stacks)
        ranks = torch.tensor(self.ranks, device=C.device)
        filled = torch.arange(C.shape[1], device=C.device) < pick(ranks, positions)[:, None]
        return C, R, rows, columns, filled


def _filler(first: Tensor) -> Tensor | float:
    # An index that is read anyway: what it gives is masked, and as finite as the rest.
    return 0.0 if first.is_floating_point() else first


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
            return self._forward(x)
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


# ----------------------------------------------------------------------------------- segments


@dataclass(frozen=True)
class Blocks:
    """Which rows of the batch a segment has, and whose they are."""

    rows: Seats
    seats: Seats
    """The seat of each block."""
    count: int

    def cut(self, rows: Tensor) -> Tensor:
        """From (n, T, d), the segment's rows, to (count, n T / count, d)."""
        return rows.view(self.count, -1, rows.shape[-1])


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


@dataclass(frozen=True)
class _CurViews:
    """What a segment of CURLoRA reads and writes on one layer."""

    values: Tensor
    gradients: Tensor
    scale: Tensor
    factors: tuple[Tensor, ...]


class CurSegment:
    """CURLoRA: rows that share one selection, or rows of selections of their own."""

    needs_input = False

    def __init__(
        self, seated: SeatedParameters, blocks: Blocks, *, shared: int | None, selections: Seats
    ) -> None:
        """Describe a segment; it holds until the next adapter joins or leaves.

        Args:
            seated: The family.
            blocks: Its rows.
            shared: Which selection all of them share; None if they do not.
            selections: The selection of each block.
        """
        self.seated, self._blocks = seated, blocks
        self._shared, self._selections = shared, selections
        self._seats = _within(blocks.seats)
        self._views: dict[str, _CurViews] = {}

    def _on(self, layer: PackedLayer) -> _CurViews:
        if layer.name in self._views:
            return self._views[layer.name]
        if self._shared is not None:
            factors = layer.selections.one(self._shared)
        else:
            factors = layer.selections.several(self._selections)
        r = factors[0].shape[-2]  # below the family's rank once its widest selections have left
        values, gradients = (
            _neighbours(self.seated.stack(layer.name, "U", matrix), self._blocks.seats)[:, :r, :r]
            for matrix in (VALUES, GRADIENTS)
        )
        views = _CurViews(values, gradients, _scales(self.seated, self._blocks), factors)
        # Factors picked one by one are copies: too much memory to keep for every layer.
        if self._shared is not None or isinstance(self._selections, slice):
            self._views[layer.name] = views
        return views

    def forward(self, layer: PackedLayer, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See `Segment`."""
        blocks, views = self._blocks, self._on(layer)
        U = pick(views.values, self._seats)
        own = pick(y, blocks.rows)
        if self._shared is not None:
            C, _, rows, _ = views.factors
            h = blocks.cut(own.index_select(-1, rows).to(U.dtype))
            z = torch.bmm(h, U.mT).mul_(views.scale)
            own.view(-1, layer.d_out).addmm_(z.view(-1, C.shape[0]).to(own.dtype), C)
        else:
            C, _, rows, _, filled = views.factors
            cut = blocks.cut(own)
            h = _gather(cut, rows, filled).to(U.dtype)
            cut.baddbmm_(torch.bmm(h, U.mT).mul_(views.scale).to(own.dtype), C)
        put_back(y, blocks.rows, own)
        return h, U

    def through(self, kept: tuple[Tensor, ...], G: Tensor) -> Tensor:  # noqa: ARG002
        """See `Segment`."""
        return G

    def backward(
        self,
        layer: PackedLayer,
        kept: tuple[Tensor, ...],
        x: Tensor | None,  # noqa: ARG002
        gradients: tuple[Tensor, Tensor],
        dx: Tensor | None,
    ) -> None:
        """See `Segment`."""
        blocks, views, (h, U) = self._blocks, self._on(layer), kept
        own = pick(gradients[1] if dx is None else dx, blocks.rows)
        C, R, _, columns, *filled = views.factors
        # G C is a part of G W, which is here unless the input needs no gradient.
        if self._shared is not None:
            wide = own @ C.t() if dx is None else own.index_select(-1, columns)
            dz = blocks.cut(wide)
        else:
            cut = blocks.cut(own)
            dz = torch.bmm(cut, C.mT) if dx is None else _gather(cut, columns, filled[0])
        dz = dz.to(U.dtype) * views.scale
        add_to(views.gradients, self._seats, torch.bmm(dz.mT, h))
        if dx is None:
            return
        dh = torch.bmm(dz, U).to(dx.dtype)
        if self._shared is not None:
            own.view(-1, layer.d_in).addmm_(dh.view(-1, R.shape[0]), R)
        else:
            blocks.cut(own).baddbmm_(dh, R)
        put_back(dx, blocks.rows, own)


class LowRankSegment:
    """LoRA, rsLoRA, and with a magnitude DoRA."""

    needs_input = True

    def __init__(self, seated: SeatedParameters, blocks: Blocks, *, magnitude: bool) -> None:
        """Describe a segment; it holds until the next adapter joins or leaves.

        Args:
            seated: The family.
            blocks: Its rows.
            magnitude: Whether it is DoRA.
        """
        self.seated, self._blocks, self._magnitude = seated, blocks, magnitude
        self._seats = _within(blocks.seats)
        self._scale = _scales(seated, blocks)
        self._views: dict[tuple[str, str, str], Tensor] = {}

    def _stack(self, layer: PackedLayer, part: str, matrix: str) -> Tensor:
        key = layer.name, part, matrix
        if key not in self._views:
            self._views[key] = _neighbours(self.seated.stack(*key), self._blocks.seats)
        return self._views[key]

    def forward(self, layer: PackedLayer, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `Segment`."""
        blocks = self._blocks
        A, B = (pick(self._stack(layer, part, VALUES), self._seats) for part in "AB")
        own = pick(y, blocks.rows)
        cut = blocks.cut(own)
        kept = (A.to(x.dtype), B.to(x.dtype))
        z = torch.bmm(blocks.cut(pick(x, blocks.rows)), kept[0].mT).mul_(self._scale.to(x.dtype))
        cut.baddbmm_(z, kept[1])
        kept = (*kept, z)
        if self._magnitude:
            norm = _direction_norms(layer, A, B, self._scale)
            M = pick(self._stack(layer, "M", VALUES), self._seats)
            # Only the factor's distance from 1 is rounded: near 1 half precision is coarse.
            change = (M / norm - 1).to(own.dtype)
            kept = (*kept, cut.clone(), change, norm)
            cut.addcmul_(cut, change)
        put_back(y, blocks.rows, own)
        return kept

    def through(self, kept: tuple[Tensor, ...], G: Tensor) -> Tensor:
        """See `Segment`."""
        if not self._magnitude:
            return G
        rescaled = G.clone()  # the incoming gradient may be shared with a residual branch
        own = pick(rescaled, self._blocks.rows)
        cut = self._blocks.cut(own)
        cut.addcmul_(cut, kept[4])
        put_back(rescaled, self._blocks.rows, own)
        return rescaled

    def backward(
        self,
        layer: PackedLayer,
        kept: tuple[Tensor, ...],
        x: Tensor | None,
        gradients: tuple[Tensor, Tensor],
        dx: Tensor | None,
    ) -> None:
        """See `Segment`."""
        assert x is not None
        blocks, seats, (A, B, z) = self._blocks, self._seats, kept[:3]
        G = blocks.cut(pick(gradients[1], blocks.rows))
        dz = torch.bmm(G, B.mT).mul_(self._scale.to(G.dtype))
        add_to(self._stack(layer, "B", GRADIENTS), seats, torch.bmm(z.mT, G))
        dA = torch.bmm(dz.mT, blocks.cut(pick(x, blocks.rows)))
        add_to(self._stack(layer, "A", GRADIENTS), seats, dA)
        if self._magnitude:
            unscaled, _, norm = kept[3:]
            outer = blocks.cut(pick(gradients[0], blocks.rows))
            dM = (outer * unscaled).sum(1, keepdim=True, dtype=norm.dtype) / norm
            add_to(self._stack(layer, "M", GRADIENTS), seats, dM)
        if dx is not None:
            own = pick(dx, blocks.rows)
            blocks.cut(own).baddbmm_(dz, A)
            put_back(dx, blocks.rows, own)


def _neighbours(stack: Tensor, seats: Seats) -> Tensor:
    """Cut a stack down to seats that are neighbours; others are picked at every use."""
    return stack[seats] if isinstance(seats, slice) else stack


def _within(seats: Seats) -> Seats:
    """Give where the seats are in what `_neighbours` gives."""
    return slice(None) if isinstance(seats, slice) else seats


def _scales(seated: SeatedParameters, blocks: Blocks) -> Tensor:
    return pick(seated.scales, blocks.seats).view(-1, 1, 1)


def _gather(cut: Tensor, indices: Tensor, filled: Tensor) -> Tensor:
    """Give each block its own columns: (m, n, d) and (m, r) to (m, n, r), zero where not filled."""
    index = indices[:, None, :].expand(-1, cut.shape[1], -1)
    return cut.gather(2, index).mul_(filled[:, None, :])


def _direction_norms(layer: PackedLayer, A: Tensor, B: Tensor, scale: Tensor) -> Tensor:
    """Give the norms of the rows of W + s B A, (m, 1, d_out), without building the matrix."""
    W = layer.weight().to(A.dtype)
    WA = (A.reshape(-1, layer.d_in) @ W.t()).view(A.shape[0], -1, layer.d_out)
    crossed = (WA * B).sum(1, keepdim=True)
    squared = (torch.bmm(torch.bmm(A, A.mT), B) * B).sum(1, keepdim=True)
    total = layer.row_norms(A.dtype) + 2 * scale * crossed + scale.square() * squared
    return total.clamp_(min=0).sqrt_()


# --------------------------------------------------------------------------------------- tick


@dataclass
class Tick:
    """One batch: the segments its rows fall into."""

    rows: int
    segments: list[Segment] = field(default_factory=list)
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    """Requires a gradient, so that autograd goes back through layers whose input does not."""


def blocks_of(rows: Sequence[int], seats: Sequence[int], device: torch.device) -> Blocks:
    """Cut rows into the largest equal blocks of one seat each.

    Args:
        rows: Positions in the batch, in order; not empty.
        seats: The seat of each.
        device: Where index tensors are put.

    Returns:
        A block for every seat where each has equally many neighbouring rows.
    """
    runs = [(seat, len(list(run))) for seat, run in itertools.groupby(seats)]
    size = math.gcd(*(length for _, length in runs))
    owners = [seat for seat, length in runs for _ in range(length // size)]
    return Blocks(pick_seats(rows, device), pick_seats(owners, device), len(owners))


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
        y = linear(x, layer.weight())
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
            dx = (inner.view(-1, layer.d_out) @ layer.weight()).view(*G.shape[:-1], layer.d_in)
        for segment, own in zip(tick.segments, kept, strict=True):
            segment.backward(layer, own, x, (G, inner), dx)
        return dx, None, None, None
