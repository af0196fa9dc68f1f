"""Rows of a batch that go through CURLoRA adapters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curlora.packing.blocks import Blocks, block_scales
from curlora.packing.packed_layer import PackedLayer
from curlora.packing.parameters import GRADIENTS, VALUES, SeatedParameters
from curlora.packing.seats import Seats, add_to, neighbours, pick, put_back, within


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
        self._seats = within(blocks.seats)
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
            neighbours(self.seated.stack(layer.name, "U", matrix), self._blocks.seats)[:, :r, :r]
            for matrix in (VALUES, GRADIENTS)
        )
        views = _CurViews(values, gradients, block_scales(self.seated, self._blocks), factors)
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


def _gather(cut: Tensor, indices: Tensor, filled: Tensor) -> Tensor:
    """Give each block its own columns: (m, n, d) and (m, r) to (m, n, r), zero where not filled."""
    index = indices[:, None, :].expand(-1, cut.shape[1], -1)
    return cut.gather(2, index).mul_(filled[:, None, :])
