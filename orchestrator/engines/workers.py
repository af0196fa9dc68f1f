"""The workers that step one pack together: what each of them does, and what they tell one another.

All of them hold the same trials and take the same decisions; each sends its share of the rows
through the base, and what depends on rows is summed. Whatever only one of them can know (the time,
free memory, a message, the state of a disk) is decided by the first and told to the others, since
workers that go different ways would wait for one another for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

_Value = TypeVar("_Value")
_Row = TypeVar("_Row")


class RankError(RuntimeError):
    """Something that all workers do together has failed on one: only starting anew helps."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many workers this is; every method but `share` and `most` is a collective."""

    rank: int = 0
    world: int = 1

    @classmethod
    def of_group(cls) -> Ranks:
        """Give this worker's place in the process group of torch.distributed, which must be up."""
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the worker that writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world == 1

    def most(self, rows: int) -> int:
        """Give how many rows the worker with most of them has."""
        return -(-rows // self.world)

    def share(self, rows: Sequence[_Row]) -> tuple[list[_Row], bool]:
        """Give this worker's part of some rows, which are dealt out in turn.

        Args:
            rows: Of all workers; not empty.

        Returns:
            The rows, and whether they count: a worker that is left without any computes the last
            one for nothing, because under ZeRO stage 3 the others wait for it at every layer.
        """
        own = list(rows[self.rank :: self.world])
        return (own, True) if own else ([rows[-1]], False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within it stands what all workers do at the same time.

        Raises:
            RankError: Something was raised within it, and there are other workers: they wait, and
                cannot be told.
        """
        if self.alone:
            yield
            return
        try:
            yield
        except RankError:
            raise
        except Exception as error:
            raise RankError(
                f"worker {self.rank} of {self.world} failed in a collective step: "
                f"{type(error).__name__}: {error}"
            ) from error

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up tensors over all workers, in place."""
        if self.alone:
            return
        with self.together():
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def told(self, value: _Value) -> _Value:
        """Give the first worker's value; what the others pass is ignored."""
        if self.alone:
            return value
        holder: list[Any] = [value if self.first else None]
        with self.together():
            torch.distributed.broadcast_object_list(holder)
        return holder[0]

    def parts(self, value: _Value) -> list[_Value]:
        """Give every worker's value, in their order."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.world
        with self.together():
            torch.distributed.all_gather_object(found, value)
        return found


ALONE = Ranks()
