"""The trained numbers of many adapters in one matrix, a row for each, and AdamW over the rows.

A *family* is the adapters whose trained tensors have the same shapes up to the rank. Each of its
adapters has a *seat*: a row of four matrices (seats, P) with the values, the gradients and
AdamW's two moments. A layer's tensors of all seats are a view of them, (seats, rows, columns),
which batched products read and gradients are added to. Tensors are padded with zeros to the
largest rank that sits; their gradients and moments stay zero there, so norms are exact.

Seats are taken without gaps: when one is left, the last one moves into it. The matrices have a row
for each seat that is taken and few besides, and no wider ones than the largest rank needs.

References:
    Loshchilov and Hutter (2019), Algorithm 2. https://arxiv.org/abs/1711.05101
    Kingma and Ba (2015), Algorithm 1. https://arxiv.org/abs/1412.6980
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from curlora.packing.seats import Seats, pick, pick_seats, room_for
from curlora.transfers import on_device

VALUES, GRADIENTS = "values", "gradients"
FIRST_MOMENTS, SECOND_MOMENTS = "first_moments", "second_moments"
_MATRICES = (VALUES, GRADIENTS, FIRST_MOMENTS, SECOND_MOMENTS)

# A step works through the matrices in pieces: on a CPU such as stay in a core's cache, elsewhere
# such as fill the device, with little memory beside the matrices.
_NUMBERS_AT_ONCE = 1 << 16
_NUMBERS_AT_ONCE_ON_DEVICE = 1 << 24

Shapes = Mapping[tuple[str, str], tuple[int, int]]


class SeatedParameters:
    """The adapters of one family: values, gradients and moments, a row for each."""

    def __init__(
        self,
        shapes: Callable[[int], Shapes],
        *,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        apart: bool = False,
    ) -> None:
        """Make room, once the first adapter sits down.

        Args:
            shapes: From a rank to the shape (rows, columns) of every tensor, by layer and part.
            capacity: The number of seats.
            dtype: Of all numbers.
            device: Where they are.
            apart: Whether a seat's norm is summed over its own numbers only, so that its bits do
                not depend on the padding that others make.
        """
        self._shapes_of = shapes
        self._apart = apart
        self._capacity = capacity
        self._dtype, self._device = dtype, device
        self.rank = 0
        self.slots: list[int] = []
        """The slot in each seat."""
        self.steps: list[int] = []
        """Steps taken in each seat since it was taken."""
        self.ranks: list[int] = []
        """The rank in each seat."""
        self._rows = 0
        self.version = 0
        """Rises whenever a value or a seat changes."""
        self.scales = torch.zeros(capacity, dtype=dtype, device=device)
        """What each seat's update is multiplied by."""
        self._shapes: dict[tuple[str, str], tuple[int, int]] = {}
        self._own_shapes: dict[int, Shapes] = {}
        """By rank."""
        self._matrices: dict[str, Tensor] = {}
        self._views: dict[str, dict[tuple[str, str], Tensor]] = {}

    def sit(self, slot: int, *, rank: int, scale: float) -> None:
        """Give a slot the next seat, with all its numbers zero.

        Args:
            slot: Which slot; it has no seat.
            rank: Its adapter's rank. If it is the largest, every tensor is padded to it.
            scale: What its update is multiplied by.
        """
        self.version += 1
        seat = len(self.slots)
        if seat == self._rows or rank > self.rank:
            self._resize(max(self._rows, room_for(seat + 1, self._capacity)), max(rank, self.rank))
        for matrix in self._matrices.values():
            matrix[seat].zero_()
        self.scales[seat] = scale
        self.slots.append(slot)
        self.steps.append(0)
        self.ranks.append(rank)

    def leave(self, slot: int) -> None:
        """Take a slot's seat away; the last seat moves into it.

        Args:
            slot: Which slot; it has a seat.
        """
        self.version += 1
        seat, last = self.slots.index(slot), len(self.slots) - 1
        if seat != last:
            for matrix in self._matrices.values():
                matrix[seat].copy_(matrix[last])
            self.scales[seat] = self.scales[last]
        for owned in (self.slots, self.steps, self.ranks):
            owned[seat] = owned[last]
            owned.pop()
        widest = max(self.ranks, default=0)
        if widest < self.rank or 2 * room_for(last, self._capacity) < self._rows:
            # Giving memory back takes some first; what cannot be had must not harm who stays.
            with suppress(torch.OutOfMemoryError):
                self._resize(room_for(last, self._capacity), widest)

    def bytes_of(self, rank: int) -> int:
        """Give how many bytes more will be held once another adapter sits.

        Args:
            rank: Its rank.

        Returns:
            Of its row in all matrices, and of the padding of the other rows.
        """
        taken = len(self.slots)
        numbers = (taken + 1) * self._width(max(rank, self.rank)) - taken * self._width(self.rank)
        return numbers * len(_MATRICES) * self._dtype.itemsize

    def stack(self, layer: str, part: str, matrix: str = VALUES) -> Tensor:
        """Give one tensor of all seats.

        Args:
            layer: The layer's name.
            part: The tensor's name.
            matrix: `VALUES`, `GRADIENTS`, `FIRST_MOMENTS` or `SECOND_MOMENTS`.

        Returns:
            (seats, rows, columns), a view of the matrix.
        """
        return self._views[matrix][layer, part]

    def shape_of(self, layer: str, part: str, rank: int) -> tuple[int, int]:
        """Give the rows and columns of one tensor of a seat with this rank, without padding."""
        if rank not in self._own_shapes:
            self._own_shapes[rank] = self._shapes_of(rank)
        return self._own_shapes[rank][layer, part]

    def taken(self, matrix: str) -> Tensor:
        """Give one matrix of the seats that are taken, (seats, numbers), a view."""
        return self._matrices[matrix][: len(self.slots)]

    def forget_moments(self, slot: int) -> None:
        """Forget a slot's moments, steps and gradients; its values stay."""
        seat = self.slots.index(slot)
        for name in (GRADIENTS, FIRST_MOMENTS, SECOND_MOMENTS):
            self._matrices[name][seat].zero_()
        self.steps[seat] = 0

    def zero_gradients(self, slot: int) -> None:
        """Forget a slot's gradients."""
        self._matrices[GRADIENTS][self.slots.index(slot)].zero_()

    def _width(self, rank: int) -> int:
        return sum(math.prod(shape) for shape in self._shapes_of(rank).values()) if rank else 0

    def _resize(self, rows: int, rank: int) -> None:
        """Give the matrices other numbers of rows and ranks, and keep what fits."""
        kept, former, repadded = min(rows, self._rows), self._views, rank != self.rank
        shapes, width = dict(self._shapes_of(rank)) if rank else {}, self._width(rank)
        # One matrix after the other, so that little is held twice; but all of them or none.
        held = sum(matrix.numel() for matrix in self._matrices.values())
        # The first new one stands beside all old ones, even where it is smaller.
        missing = max(rows * width, (len(_MATRICES) + 1) * rows * width - held)
        torch.empty(missing, dtype=self._dtype, device=self._device)
        self.rank, self._rows, self._shapes = rank, rows, shapes
        for name in _MATRICES:
            matrix = torch.zeros(rows, width, dtype=self._dtype, device=self._device)
            views = self._cut(matrix)
            if not repadded and name in self._matrices:
                matrix[:kept] = self._matrices[name][:kept]
            for key in former.get(name, {}).keys() & views.keys() if repadded else ():
                old, new = former[name][key], views[key]
                high, wide = (min(a, b) for a, b in zip(old.shape[1:], new.shape[1:], strict=True))
                new[:kept, :high, :wide] = old[:kept, :high, :wide]
            self._matrices[name], self._views[name] = matrix, views

    def _cut(self, matrix: Tensor) -> dict[tuple[str, str], Tensor]:
        pieces = matrix.split([math.prod(shape) for shape in self._shapes.values()], dim=1)
        return {
            key: piece.view(len(matrix), *shape)
            for (key, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    # ------------------------------------------------------------------------------- AdamW

    def step(
        self,
        rates: Mapping[int, float],
        *,
        weight_decays: Mapping[int, float],
        max_norms: Mapping[int, float],
        betas: tuple[float, float],
        eps: float,
    ) -> tuple[list[int], Tensor]:
        """Take one step of AdamW in some seats, and forget their gradients; nothing is read.

        The same numbers as `torch.optim.AdamW` after `torch.nn.utils.clip_grad_norm_`, on each
        slot alone, up to rounding.

        Args:
            rates: The learning rate by slot; other slots are left as they are.
            weight_decays: By slot.
            max_norms: What a slot's gradient is clipped to; infinite for no clipping.
            betas: Decay of the two moments.
            eps: Added to the denominator.

        Returns:
            The slots that took a step, and the norms of their gradients before clipping, on the
            device.
        """
        seats = [seat for seat, slot in enumerate(self.slots) if slot in rates]
        if not seats:
            return [], self.scales.new_empty(0)
        self.version += 1
        slots = [self.slots[seat] for seat in seats]
        for seat in seats:
            self.steps[seat] += 1
        chosen = pick_seats(seats, self._device)
        norms = self._norms(seats, chosen)
        lr = [rates[slot] for slot in slots]
        taken = [self.steps[seat] for seat in seats]
        limits, keep, sizes, corrections = self._columns(
            [max_norms[slot] for slot in slots],
            [1.0 - rate * weight_decays[slot] for rate, slot in zip(lr, slots, strict=True)],
            [rate / (1.0 - betas[0] ** step) for rate, step in zip(lr, taken, strict=True)],
            [math.sqrt(1.0 - betas[1] ** step) for step in taken],
        )
        # The same small number as in `clip_grad_norm_`.
        clips = (limits / (norms[:, None] + 1e-6)).clamp(max=1.0)
        width = self._matrices[VALUES].shape[1]
        on_cpu = self._device.type == "cpu"
        at_once = _NUMBERS_AT_ONCE if on_cpu else _NUMBERS_AT_ONCE_ON_DEVICE
        at_once = max(1, at_once // len(seats))
        for start in range(0, width, at_once):
            piece = slice(start, start + at_once)
            values, gradients, first, second = (
                pick(self._matrices[name][:, piece], chosen) for name in _MATRICES
            )
            gradient = gradients * clips
            first.lerp_(gradient, 1.0 - betas[0])
            second.mul_(betas[1]).addcmul_(gradient, gradient, value=1.0 - betas[1])
            denominator = second.sqrt().div_(corrections).add_(eps)
            values.mul_(keep).sub_((first / denominator).mul_(sizes))
            gradients.zero_()
            if isinstance(chosen, Tensor):
                for name, changed in zip(
                    _MATRICES, (values, gradients, first, second), strict=True
                ):
                    self._matrices[name][:, piece].index_copy_(0, chosen, changed)
        return slots, norms

    def _norms(self, seats: Sequence[int], chosen: Seats) -> Tensor:
        """Give the norms of some seats' gradients (m,)."""
        if not self._apart:
            # Of all seats: a copy of the chosen ones could be a large part of a device.
            return pick(torch.linalg.vector_norm(self._matrices[GRADIENTS], dim=1), chosen)
        norms: list[Tensor] = []
        for seat in seats:
            own = [
                view[seat, :rows, :columns].reshape(-1)
                for key, view in self._views[GRADIENTS].items()
                for rows, columns in [self.shape_of(*key, self.ranks[seat])]
            ]
            norms.append(torch.linalg.vector_norm(torch.cat(own)))
        return torch.stack(norms)

    def _columns(self, *numbers: Sequence[float]) -> tuple[Tensor, ...]:
        """Give each row of numbers as a column (m, 1), all of them sent at once."""
        return on_device(torch.tensor(numbers, dtype=self._dtype), self._device)[..., None].unbind()
