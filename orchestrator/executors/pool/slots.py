"""The slots of a pack: one trial each, which of them are taken, and how each ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from curlora.packing.pack import PackedModel
from orchestrator.data.model_inputs import Scored
from orchestrator.executors.pool.failures import Failure
from orchestrator.executors.pool.slot_engine import SlotEngine
from orchestrator.loop.requests import Taken
from orchestrator.loop.sequence_run import SequenceRun
from orchestrator.loop.trial_state import TrialState
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.sections import TrainingSpec


@dataclass
class Slot:
    """One trial in the pack."""

    number: int
    name: str
    run: SequenceRun
    engine: SlotEngine
    spec: TrainingSpec
    on_report: Callable[[StageReport, AccuracyMatrix], None]
    take_over: Callable[[int], Taken | None]
    """Lets it go on from what another trial has learnt of a task that begins."""
    state: TrialState
    """As of its last report."""
    tokens: int
    """Padded tokens of its rows in a learning pass, at most."""
    seconds: float = 0.0
    """Its share of the time so far, by tokens where passes are shared."""


@dataclass(frozen=True)
class Ended:
    """How a trial ended."""

    name: str
    matrix: AccuracyMatrix | None
    """None for a trial that failed."""
    reason: str = ""
    details: str = ""
    """The traceback of what was raised; empty where the reason says all."""


class SlotTable:
    """The slots that are taken, and those that are free."""

    def __init__(self, pack: PackedModel, capacity: int) -> None:
        """Begin with free slots only.

        Args:
            pack: Whose slots they are.
            capacity: How many.
        """
        self._pack = pack
        self._slots: dict[int, Slot] = {}
        self._free = list(range(capacity))

    def __iter__(self) -> Iterator[Slot]:
        """The taken slots, in the order in which they were taken."""
        return iter(list(self._slots.values()))

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    @property
    def names(self) -> list[str]:
        """The trials that are learning, in the order of their slots."""
        return [slot.name for _, slot in sorted(self._slots.items())]

    @contextmanager
    def reserved(self) -> Iterator[int]:
        """The number of a free slot; it stays free if what is done within fails."""
        number = self._free.pop(0)
        try:
            yield number
        except BaseException:
            self._free.insert(0, number)
            raise

    def add(self, slot: Slot) -> None:
        """Note who has joined the pack."""
        self._slots[slot.number] = slot

    def named(self, name: str) -> Slot:
        """The slot of a trial.

        Args:
            name: A trial that is learning.

        Returns:
            Its slot.

        Raises:
            ValueError: No such trial is learning.
        """
        for slot in self._slots.values():
            if slot.name == name:
                return slot
        raise ValueError(f"No trial {name!r} is learning here. There are: {self.names}.")

    def holds(self, slot: Slot) -> bool:
        """Whether a slot has not been dropped, within a report of its own or of another."""
        return self._slots.get(slot.number) is slot

    def end(
        self, slot: Slot, matrix: AccuracyMatrix | None, failure: Failure | None = None
    ) -> Ended:
        """Let a trial leave the pack.

        Args:
            slot: Its slot, which is free then.
            matrix: What it has reached; None of one that failed or was dropped.
            failure: Why it failed.

        Returns:
            How it ended.
        """
        del self._slots[slot.number]
        self._pack.leave(slot.number)
        self._free.append(slot.number)
        if failure is None:
            return Ended(slot.name, matrix)
        return Ended(slot.name, None, failure.reason, failure.details)


@contextmanager
def charged(slot: Slot) -> Iterator[None]:
    """Charge a slot for what is done for it alone."""
    began = time.monotonic()
    yield
    slot.seconds += time.monotonic() - began


def charge(shares: Sequence[tuple[Slot, Sequence[Scored]]], began: float) -> None:
    """Divide the time since `began` among slots, by the useful tokens of their rows."""
    spent = time.monotonic() - began
    tokens = [sum(len(row.tokens) for row in rows) for _, rows in shares]
    total = sum(tokens)
    for (slot, _), count in zip(shares, tokens, strict=True):
        # Texts that are written have no rows to count: equal shares.
        slot.seconds += spent * (count / total if total else 1 / len(tokens))
