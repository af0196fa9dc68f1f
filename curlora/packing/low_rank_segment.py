"""Rows of a batch that go through LoRA, rsLoRA or DoRA adapters."""

import torch
from torch import Tensor

from curlora.packing.blocks import Blocks, block_scales
from curlora.packing.packed_layer import PackedLayer
from curlora.packing.parameters import GRADIENTS, VALUES, SeatedParameters
from curlora.packing.seats import add_to, neighbours, pick, put_back, within


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
        self._seats = within(blocks.seats)
        self._scale = block_scales(seated, blocks)
        self._views: dict[tuple[str, str, str], Tensor] = {}
        self._norms: dict[str, tuple[int, Tensor]] = {}

    def _stack(self, layer: PackedLayer, part: str, matrix: str) -> Tensor:
        key = layer.name, part, matrix
        if key not in self._views:
            self._views[key] = neighbours(self.seated.stack(*key), self._blocks.seats)
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
            norm = self._norms_of(layer, A, B)
            M = pick(self._stack(layer, "M", VALUES), self._seats)
            # Only the factor's distance from 1 is rounded: near 1 half precision is coarse.
            change = (M / norm - 1).to(own.dtype)
            kept = (*kept, cut.clone(), change, norm)
            cut.addcmul_(cut, change)
        put_back(y, blocks.rows, own)
        return kept

    def _norms_of(self, layer: PackedLayer, A: Tensor, B: Tensor) -> Tensor:
        """The norms of W + s B A, kept until an adapter changes: they cost a product with W."""
        version, norms = self._norms.get(layer.name, (-1, A))
        if version != self.seated.version:
            norms = _direction_norms(layer, A, B, self._scale)
            self._norms[layer.name] = self.seated.version, norms
        return norms

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


def _direction_norms(layer: PackedLayer, A: Tensor, B: Tensor, scale: Tensor) -> Tensor:
    """Give the norms of the rows of W + s B A, (m, 1, d_out), without building the matrix."""
    W = layer.weight().to(A.dtype)
    WA = (A.reshape(-1, layer.d_in) @ W.t()).view(A.shape[0], -1, layer.d_out)
    crossed = (WA * B).sum(1, keepdim=True)
    squared = (torch.bmm(torch.bmm(A, A.mT), B) * B).sum(1, keepdim=True)
    total = layer.row_norms(A.dtype) + 2 * scale * crossed + scale.square() * squared
    return total.clamp_(min=0).sqrt_()
