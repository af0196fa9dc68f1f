"""The workers that compute together: rank and world, and the collectives between them.

All of them hold the same trials and take the same decisions; each computes its shard of the rows,
and what depends on rows is summed. What only one of them can know (the time, free memory, a
message, the state of a disk) the first one decides and broadcasts: workers that decide differently
would wait for one another for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

_Value = TypeVar("_Value")
_Row = TypeVar("_Row")


class WorkersError(RuntimeError):
    """A collective has failed on one of several workers: only a restart of all of them helps."""


@dataclass(frozen=True)
class Workers:
    """Which of how many workers this is; all methods but `shard`, `max_rows` are collectives."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_group(cls) -> Workers:
        """This worker's rank in the process group of torch.distributed, which must be up."""
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes files and sends messages."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world == 1

    def max_rows(self, rows: int) -> int:
        """The rows of the largest shard of so many."""
        return -(-rows // self.world)

    def shard(self, rows: Sequence[_Row]) -> tuple[list[_Row], bool]:
        """This worker's shard of some rows, taken round-robin.

        Args:
            rows: Of all workers; not empty.

        Returns:
            The rows, and whether they count: a worker that is left without any computes the last
            one for nothing, because under ZeRO stage 3 the others wait for it at every layer.
        """
        own = list(rows[self.rank :: self.world])
        return (own, True) if own else ([rows[-1]], False)

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Around what all workers do at the same time.

        Raises:
            WorkersError: Something was raised within it, and there are other workers: they wait,
                and nothing can reach them.
        """
        if self.alone:
            yield
            return
        try:
            yield
        except WorkersError:
            raise
        except Exception as error:
            raise WorkersError(
                f"worker {self.rank} of {self.world} failed in a collective step: "
                f"{type(error).__name__}: {error}"
            ) from error

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all workers, in place."""
        if self.alone:
            return
        with self.collective():
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def totals(self, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The sums of named tensors over all workers.

        Args:
            tensors: This worker's; they are left as they are.
            device: Where workers sum.

        Returns:
            On that device; of one worker its own tensors, wherever they are.
        """
        if self.alone:
            return dict(tensors)
        summed = {name: tensor.to(device).clone() for name, tensor in tensors.items()}
        self.all_reduce(list(summed.values()))
        return summed

    def broadcast(self, value: _Value) -> _Value:
        """The first worker's value; what the others pass is ignored."""
        if self.alone:
            return value
        holder: list[Any] = [value if self.first else None]
        with self.collective():
            torch.distributed.broadcast_object_list(holder)
        return holder[0]

    def all_gather(self, value: _Value) -> list[_Value]:
        """Every worker's value, by rank."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.world
        with self.collective():
            torch.distributed.all_gather_object(found, value)
        return found


ALONE = Workers()
