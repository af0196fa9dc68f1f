"""What the driver talks to: its observer, the pool, and whoever asks it for the next trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.records.event import Event
from orchestrator.spec.sections import ResourceSpec


class Observer(Protocol):
    """Who is told what happens."""

    def note(self, text: str) -> None:
        """What the driver is doing."""

    def event(self, event: Event, *, replayed: bool = False) -> None:
        """What is journalled: all that was, where a sweep is continued, then each new event.

        Args:
            event: What happened.
            replayed: Whether it was journalled before this process began. Its time cannot tell:
                clocks are set back, and differ between machines.
        """

    def progress(self, trial: str, progress: dict[str, Any]) -> None:
        """How far a trial is."""


@dataclass(frozen=True)
class Capacity:
    """What may run at a time."""

    cpus: float = math.inf
    gpus: float = math.inf
    trials: float = math.inf
    workers: float = math.inf

    def holds(self, trials: Sequence[ResourceSpec]) -> bool:
        """Whether these trials fit side by side."""
        cpus = sum(r.workers * r.cpus_per_worker for r in trials)
        gpus = sum(r.workers * r.gpus_per_worker for r in trials)
        workers = sum(r.workers for r in trials)
        return cpus <= self.cpus and gpus <= self.gpus and workers <= self.workers


class TrialPool(Protocol):
    """The pool as the driver sees it: places for trials that can be packed."""

    @property
    def is_open(self) -> bool:
        """Whether its members hold their share of the cluster now."""
        ...

    @property
    def places(self) -> int:
        """How many trials may be in it or wait for a slot."""
        ...

    @property
    def resources(self) -> Sequence[ResourceSpec]:
        """What its members hold while it is open."""
        ...

    def open(self) -> None:
        """Start the members."""

    def shut(self) -> None:
        """Let the members end, for others to use what they hold."""

    def assign(self, trial: str) -> None:
        """Choose a member for a trial."""

    def release(self, trial: str) -> None:
        """A trial has ended, or is not wanted any more."""


class Wait:
    """The next trial exists, but does not fit beside those that run."""


WAIT = Wait()
