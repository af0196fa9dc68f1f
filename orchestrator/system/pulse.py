"""Whether the work in this process comes further: each pass over the base says so.

A process that is there and answers may still be stuck, for instance in a sum over workers of which
one was stopped. So its pulse is no timer's: whoever computes gives it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Pulse:
    """How it stands with the work of a process."""

    idle: float
    """Seconds since it came further, or had nothing to do."""
    computed: float
    """Seconds of CPU time that the process has used meanwhile, all of its threads together."""
    passes: int
    """Passes over the base so far."""
    tokens: int = 0
    """Tokens in batches so far, trained and scored, without padding."""
    padded: int = 0
    """The same with padding."""


class _Work:
    """The last sign of this process."""

    def __init__(self) -> None:
        self.at, self.cpu, self.passes = time.monotonic(), time.process_time(), 0
        self.tokens = self.padded = 0


_work = _Work()


def passed(*_: object) -> None:
    """A pass over the base is done; takes a hook's arguments."""
    _work.passes += 1
    rested()


def batched(tokens: int, padded: int) -> None:
    """A batch goes through the base: how many tokens it has, and how many with padding."""
    _work.tokens += tokens
    _work.padded += padded


def rested() -> None:
    """Something else came further, or there is nothing to do."""
    _work.at, _work.cpu = time.monotonic(), time.process_time()


def pulse() -> Pulse:
    """How it stands now; may be asked from any thread."""
    cpu, at = _work.cpu, _work.at
    computed = max(0.0, time.process_time() - cpu)
    return Pulse(time.monotonic() - at, computed, _work.passes, _work.tokens, _work.padded)
