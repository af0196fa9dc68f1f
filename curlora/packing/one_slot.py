"""The rows of one adapter in a batch, so computed that its numbers do not depend on the other rows.

Each adapter has its own products, in tiles (`curlora.packing.tiles`) and of its own rank. What is
summed over tokens, the gradients, is summed row by row: each over its own length, one after the
other. So neither the rows beside them nor the way in which an adapter's rows are spread over
batches changes a bit.

Shapes as in `curlora.packing.packed_layer`; n rows of T tokens. Ranks and widths are filled up with
zeros to whole lines of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curlora.packing.packed_layer import PackedLayer
from curlora.packing.parameters import GRADIENTS, VALUES, SeatedParameters
from curlora.packing.seats import Seats, pick, put_back
from curlora.packing.tiles import filled, grained, lined_up, tiled_product


@dataclass(frozen=True)
class OneSlot:
    """An adapter and its rows in a batch."""

    seated: SeatedParameters
    seat: int
    rank: int
    rows: Seats
    lengths: tuple[int, ...]
    """Of each row, without padding."""

    def own(self, layer: PackedLayer, part: str, matrix: str = VALUES) -> Tensor:
        """One of its tensors on a layer, a view without padding."""
        rows, columns = self.seated.shape_of(layer.name, part, self.rank)
        return self.seated.stack(layer.name, part, matrix)[self.seat, :rows, :columns]

    def copied(self, layer: PackedLayer, part: str, dtype: torch.dtype) -> Tensor:
        """One of its tensors on a layer, filled up."""
        own = self.own(layer, part).to(dtype)
        return filled(own, grained(own.shape[0]), grained(own.shape[1]))

    @property
    def scale(self) -> Tensor:
        """What its update is multiplied by, 0-dim."""
        return self.seated.scales[self.seat]

    def add_products(self, layer: PackedLayer, part: str, left: Tensor, right: Tensor) -> None:
        """Add left' right, summed over tokens row by row, to the gradient of a tensor.

        Args:
            layer: The layer.
            part: The tensor, (a, b).
            left: (n, T, a or more).
            right: (n, T, b or more).
        """
        gradient = self.own(layer, part, GRADIENTS)
        a, b = gradient.shape
        total = filled(gradient, grained(a), grained(b))
        for mine, other in zip(self.of_rows(left), self.of_rows(right), strict=True):
            if other.dtype == total.dtype:
                total.addmm_(mine.t(), other)
            else:  # half precision: gradients are wider
                total.add_(torch.mm(mine.t(), other))
        gradient.copy_(total[:a, :b])

    def of_rows(self, tensor: Tensor) -> Sequence[Tensor]:
        """The tokens of each row of (n, T, width), beginning at lines of the cache."""
        T = tensor.shape[1]
        flat = tensor.reshape(-1, tensor.shape[-1])
        flat = lined_up(flat, grained(tensor.shape[-1]))
        cuts = [cut for length in self.lengths for cut in (length, T - length)]
        return flat.split_with_sizes(cuts)[::2]


def _times(x: Tensor, M: Tensor, width: int | None = None) -> Tensor:
    """Give x M for x (n, T, k or less): (n, T, m), or the first so many columns of it."""
    found = tiled_product(lined_up(x.reshape(-1, x.shape[-1]), M.shape[0]), M)
    return found[:, :width].reshape(*x.shape[:-1], width or M.shape[1])


class OneCurSegment:
    """CURLoRA."""

    needs_input = False

    def __init__(self, slot: OneSlot, selection: int) -> None:
        """Describe a segment; it holds until the next adapter joins or leaves.

        Args:
            slot: The adapter and its rows.
            selection: Its selection of columns and rows.
        """
        self.seated, self._slot, self._selection = slot.seated, slot, selection
        self._kept: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def _factors(self, layer: PackedLayer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if layer.name in self._kept:
            return self._kept[layer.name]
        C, R, rows, columns = layer.selections.one(self._selection)
        r = grained(len(rows))
        found = (
            lined_up(C, grained(layer.d_out), r), lined_up(R, grained(layer.d_in), r), rows, columns
        )  # fmt: skip
        if found[0] is C and found[1] is R:  # copies take too much memory to keep for every layer
            self._kept[layer.name] = found
        return found

    def forward(self, layer: PackedLayer, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG002
        """See `Segment`."""
        slot = self._slot
        C, _, rows, _ = self._factors(layer)
        U = slot.copied(layer, "U", y.dtype)
        own = pick(y, slot.rows)
        h = _spread(own.index_select(-1, rows), len(U))
        z = _times(h, U.t()).mul_(slot.scale)
        own.add_(_times(z, C, layer.d_out))
        put_back(y, slot.rows, own)
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
        slot, (h, U) = self._slot, kept
        C, R, _, columns = self._factors(layer)
        own = pick(gradients[1] if dx is None else dx, slot.rows)
        # G C is a part of G W, which is here unless the input needs no gradient.
        parts = None if dx is None else own.index_select(-1, columns)
        dz = _times(own, C.t()) if parts is None else _spread(parts, len(U))
        dz.mul_(slot.scale)
        slot.add_products(layer, "U", dz, h)
        if dx is None:
            return
        own.add_(_times(_times(dz, U), R, layer.d_in))
        put_back(dx, slot.rows, own)


def _spread(x: Tensor, width: int) -> Tensor:
    """Fill the last dimension up with zeros."""
    return x if x.shape[-1] == width else torch.nn.functional.pad(x, (0, width - x.shape[-1]))


class OneLowRankSegment:
    """LoRA, rsLoRA, and with a magnitude DoRA."""

    needs_input = True

    def __init__(self, slot: OneSlot, *, magnitude: bool) -> None:
        """Describe a segment; it holds until the next adapter joins or leaves.

        Args:
            slot: The adapter and its rows.
            magnitude: Whether it is DoRA.
        """
        self.seated, self._slot, self._magnitude = slot.seated, slot, magnitude

    def forward(self, layer: PackedLayer, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """See `Segment`."""
        slot = self._slot
        A, B = (slot.copied(layer, part, x.dtype) for part in "AB")
        own = pick(y, slot.rows)
        z = _times(pick(x, slot.rows), A.t()).mul_(slot.scale.to(x.dtype))
        own.add_(_times(z, B, layer.d_out))
        kept = (A, B, z)
        if self._magnitude:
            norm = self._norms(layer)
            # Only the factor's distance from 1 is rounded: near 1 half precision is coarse.
            change = (slot.own(layer, "M") / norm - 1).to(own.dtype)
            kept = (*kept, own.clone(), change, norm)
            own.addcmul_(own, change)
        put_back(y, slot.rows, own)
        return kept

    def _norms(self, layer: PackedLayer) -> Tensor:
        """The norms of the rows of W + s B A, (1, d_out), kept until an adapter changes."""
        version, norms = layer.direction_norms
        if version != self.seated.version:
            norms = dict(enumerate(self._all_norms(layer)))
            layer.direction_norms = self.seated.version, norms
        return norms[self._slot.seat]

    def _all_norms(self, layer: PackedLayer) -> Iterator[Tensor]:
        """The norms of all seats: of so few rows a product with W costs least with all at once."""
        slots = [
            replace(self._slot, seat=seat, rank=rank) for seat, rank in enumerate(self.seated.ranks)
        ]
        widths = ("A", layer.d_in), ("B", layer.d_out)
        factors = [
            [filled(slot.own(layer, part), grained(slot.rank), width) for part, width in widths]
            for slot in slots
        ]
        products = layer.times(torch.cat([A for A, _ in factors]))
        split = products.split([len(A) for A, _ in factors])
        for slot, (A, B), WA in zip(slots, factors, split, strict=True):
            crossed = (WA * B).sum(0, keepdim=True)
            squared = (torch.mm(torch.mm(A, A.t()), B) * B).sum(0, keepdim=True)
            total = layer.row_norms(A.dtype) + 2 * slot.scale * crossed
            yield (total + slot.scale.square() * squared).clamp_(min=0).sqrt_()

    def through(self, kept: tuple[Tensor, ...], G: Tensor) -> Tensor:
        """See `Segment`."""
        if not self._magnitude:
            return G
        rescaled = G.clone()  # the incoming gradient may be shared with a residual branch
        own = pick(rescaled, self._slot.rows)
        own.addcmul_(own, kept[4])
        put_back(rescaled, self._slot.rows, own)
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
        slot, (A, B, z) = self._slot, kept[:3]
        G = pick(gradients[1], slot.rows)
        dz = _times(G, B.t()).mul_(slot.scale.to(G.dtype))
        slot.add_products(layer, "B", z, G)
        slot.add_products(layer, "A", dz, pick(x, slot.rows))
        if self._magnitude:
            unscaled, _, norm = kept[3:]
            outer = pick(gradients[0], slot.rows) * unscaled
            gradient = slot.own(layer, "M", GRADIENTS)[0]
            totals = torch.stack([own.sum(0, dtype=norm.dtype) for own in slot.of_rows(outer)])
            for total in totals[:, : layer.d_out] / norm:
                gradient.add_(total)
        if dx is not None:
            own = pick(dx, slot.rows)
            own.add_(_times(dz, A, layer.d_in))
            put_back(dx, slot.rows, own)
