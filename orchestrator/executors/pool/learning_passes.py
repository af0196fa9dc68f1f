"""Optimiser steps of several slots, in as few passes of the base as their lengths allow."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from curlora.transfers import on_device, read_together
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.row_batches import cut_into_passes, pass_tokens, scored_example
from orchestrator.executors.pool.failures import Failure, too_long
from orchestrator.executors.pool.shared_passes import SharedPasses
from orchestrator.executors.pool.slot_memory import PassSize
from orchestrator.executors.pool.slots import Slot, charge
from orchestrator.loop.requests import TrainStep

_Group: TypeAlias = Sequence[tuple[Slot, list[Scored]]]
_Parts: TypeAlias = list[Tensor]
"""What the passes of a tick add to one slot's loss, on the device, not read yet."""


class LearningPasses:
    """Takes optimiser steps."""

    def __init__(self, passes: SharedPasses, tokens: int) -> None:
        """Take a base.

        Args:
            passes: The base and its pack.
            tokens: Padded tokens of a pass at most, on each worker.
        """
        self._passes = passes
        self._pack = passes.pack
        self._workers = passes.workers
        self.size = PassSize(tokens)
        self.largest = 0
        """Padded tokens of the largest pass of the last tick in which something was learnt."""

    def learn(self, learners: Sequence[Slot]) -> dict[int, float | Failure]:
        """One optimiser step of each slot.

        Args:
            learners: Slots whose request is a `TrainStep`.

        Returns:
            By slot, the mean loss per scored token in nats, NaN where the gradient is not finite;
            or why it failed.
        """
        began = time.monotonic()
        self.largest = 0
        rows: dict[int, list[Scored]] = {}
        losses: dict[int, float | Failure] = {}
        rates: dict[int, float] = {}
        for slot in learners:
            found = self._passes.attempt(partial(_step_of, slot))
            if isinstance(found, Failure):
                losses[slot.number] = found
            else:
                rows[slot.number], rates[slot.number] = found
        ready = [slot for slot in learners if slot.number in rows]
        parts: dict[int, _Parts] = {}
        for group in self._groups(ready, rows):
            for number, found in self._backward(group).items():
                if isinstance(found, Failure):
                    losses[number] = found
                else:
                    parts[number] = found
        parts = self._summed(parts)
        for slot in _going_on(ready, losses):
            added = self._passes.attempt(slot.engine.add_penalty)
            if isinstance(added, Failure):
                losses[slot.number] = added
        going_on = _going_on(ready, losses)
        norms = self._pack.step(
            {slot.number: rates[slot.number] for slot in going_on},
            weight_decay={slot.number: slot.spec.weight_decay for slot in going_on},
            max_norm={slot.number: slot.spec.max_grad_norm or math.inf for slot in going_on},
        )
        # After the step, which has waited for the device already.
        losses |= _read({slot.number: parts[slot.number] for slot in going_on})
        losses |= {number: math.nan for number, norm in norms.items() if not math.isfinite(norm)}
        charge([(slot, rows[slot.number]) for slot in ready], began)
        return losses

    def _groups(
        self, learners: Sequence[Slot], rows: Mapping[int, list[Scored]]
    ) -> Iterator[_Group]:
        """Slots in passes that fit, cut where they differ so much that padding costs most."""
        longest = {n: max(len(row.tokens) for row in found) for n, found in rows.items()}
        # Slots of one kind stay neighbours, where their products are one.
        order = sorted(learners, key=lambda s: (-longest[s.number], s.number))
        sizes = [(len(rows[slot.number]), longest[slot.number]) for slot in order]
        each = pass_tokens(self._passes.device)
        for first, last in cut_into_passes(sizes, self._workers.max_rows, self.size.tokens, each):
            yield [(slot, rows[slot.number]) for slot in order[first:last]]

    def _backward(self, group: _Group) -> dict[int, _Parts | Failure]:
        """The losses of some slots, with their gradients in the pack."""
        longest = max(len(row.tokens) for _, mine in group for row in mine)
        count = sum(len(mine) for _, mine in group)
        if len(group) == 1:
            count = min(count, self.size.rows(longest) * self._workers.world)
        found = self._passes.in_step(partial(self._compute, group, count))
        if not isinstance(found, Failure):
            return {**found}
        for slot, _ in group:
            self._pack.zero_gradients(slot.number)
        most = self._workers.max_rows(count)
        if found.memory:
            self.size.failed(most, longest)
            self._passes.make_room()
        if len(group) > 1:
            half = len(group) // 2
            return self._backward(group[:half]) | self._backward(group[half:])
        if found.memory and most > 1:
            return self._backward(group)
        return {group[0][0].number: too_long(found, longest)}

    def _compute(self, group: _Group, count: int) -> dict[int, _Parts]:
        """All rows of some slots forward and backward, so many at a time."""
        scored = {slot.number: sum(len(row.picks) for row in mine) for slot, mine in group}
        rows = [(slot.number, row) for slot, mine in group for row in mine]
        losses: dict[int, _Parts] = {number: [] for number in scored}
        for start in range(0, len(rows), count):
            own, counts = self._workers.shard(rows[start : start + count])
            longest = max(len(row.tokens) for _, row in own)
            self.largest = max(self.largest, len(own) * longest)
            for number, loss in self._passes.learn(own, scored, counts=counts).items():
                losses[number].append(loss)
        return losses

    def _summed(self, parts: dict[int, _Parts]) -> dict[int, _Parts]:
        """Sum losses and gradients over the workers, once a tick."""
        if self._workers.alone or not parts:
            return parts
        own = torch.tensor(list(_read(parts).values()), dtype=torch.float64)
        whole = on_device(own, self._passes.device)
        self._workers.all_reduce([whole, *self._pack.gradient_matrices()])
        return {number: [loss] for number, loss in zip(parts, whole.unbind(), strict=True)}


def _read(parts: Mapping[int, _Parts]) -> dict[int, float]:
    """The loss of each slot, all of them read at once."""
    values = iter(read_together([part for own in parts.values() for part in own]))
    return {
        number: reduce(operator.add, islice(values, sum(part.numel() for part in own)), 0.0)
        for number, own in parts.items()
    }


def _step_of(slot: Slot) -> tuple[list[Scored], float]:
    """The rows of a slot's step, and its learning rate."""
    request = slot.run.request
    if not isinstance(request, TrainStep):
        raise TypeError(f"The trial {slot.name!r} asks for {request}, which is no step.")
    rows = [scored_example(example) for example in (*request.examples, *request.replayed)]
    return rows, slot.engine.learning_rate_at(request.step)


def _going_on(slots: Sequence[Slot], losses: Mapping[int, float | Failure]) -> list[Slot]:
    return [slot for slot in slots if slot.number not in losses]
