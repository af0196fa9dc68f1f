"""Noticing a worker that hangs, by what it has come to and not by whether its process is there.

A worker tells, with each of its signs, how long ago it came further (`system/pulse.py`). Three
things are not to be mistaken for a hang: a first pass, which may compile; a long computation, which
uses CPU time; and a driver that was held up itself and so heard nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.system.pulse import Pulse

STILL_SECONDS = 45.0
"""A worker that has begun to compute and comes no further for so long, without using CPU time, or
gives no sign at all, hangs; or several times its longest pause, where that is more."""
BUSY_SECONDS = 300.0
"""The same of one that uses CPU time meanwhile: it may spin, or compute something very large."""
FIRST_SECONDS = 600.0
"""The same before its first pass: it loads and may compile."""
PAUSES = 10.0
"""How many times its longest pause so far a worker may pause."""
TOLD_SECONDS = 45.0
"""A worker that has come no further for so long is told of, though it may only be slow."""
SILENT_SECONDS = 15.0
"""A process that was not heard of for longer may be gone; it gives a sign every five."""
BUSY_SHARE = 0.05
"""Seconds of CPU time a second, above which a process computes: its helpers need a hundredth."""
HELD_UP_SECONDS = 2.0
"""A driver that has not looked for longer was held up, and does not count that time."""


class ProgressWatch:
    """What is known of one worker's progress."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with a worker that starts.

        Args:
            clock: Seconds.
        """
        self._clock = clock
        self._looked = self._heard = clock()
        self._pulse = Pulse(0.0, 0.0, 0)
        self._longest = 0.0
        self._told = False
        """Whether was told that it comes no further, since it last did."""

    def hear(self, pulse: Pulse | None, silent: float = 0.0) -> None:
        """Take in a sign.

        Args:
            pulse: How it stands with its work; None where it does not say.
            silent: Seconds since the sign was given.
        """
        self._heard = max(self._heard, self._clock() - silent)
        if pulse is None:
            return
        if pulse.idle < self._pulse.idle and self._pulse.passes:
            self._longest = max(self._longest, self._pulse.idle)
        self._pulse = pulse

    def stall(self) -> str | None:
        """What is to be told of a worker that comes no further and may yet do so.

        Returns:
            The arithmetic, once for each time that it comes no further; else None.
        """
        silent = max(0.0, self._clock() - self._heard)
        idle = self._pulse.idle + silent
        if idle < max(TOLD_SECONDS, 2 * self._longest):
            self._told = False
            return None
        if self._told:
            return None
        self._told = True
        share = self._pulse.computed / max(self._pulse.idle, 1.0)
        used = f"its process uses {share:.2f} cores meanwhile"
        if silent > SILENT_SECONDS:
            used = f"no sign of it for {silent:.0f} s"
        if not self._pulse.passes:
            return (
                f"no pass over the base in its first {idle:.0f} s, in which it loads and may "
                f"compile ({used}); without any sign another takes its place after "
                f"{FIRST_SECONDS:.0f} s"
            )
        allowed = max(BUSY_SECONDS if share > BUSY_SHARE else STILL_SECONDS, PAUSES * self._longest)
        return (
            f"no pass over the base for {idle:.0f} s, where {self._longest:.0f} s was the longest "
            f"pause before ({used}); another takes its place after {allowed:.0f} s"
        )

    @property
    def pulse(self) -> Pulse:
        """How it stood with its work at its last sign."""
        return self._pulse

    def trouble(self) -> str | None:
        """Why the worker is taken for one that hangs, in words; None while it is not."""
        now = self._clock()
        if now - self._looked > HELD_UP_SECONDS:
            self._heard += now - self._looked
        self._looked = now
        silent = max(0.0, now - self._heard)
        if not self._pulse.passes:
            return f"no sign of it for {silent:.0f} s" if silent > FIRST_SECONDS else None
        allowed = max(STILL_SECONDS, PAUSES * self._longest)
        if silent > allowed:
            return f"no sign of it for {silent:.0f} s"
        idle = self._pulse.idle + silent
        busy = self._pulse.computed > BUSY_SHARE * self._pulse.idle
        if idle > (max(BUSY_SECONDS, allowed) if busy else allowed):
            return f"no pass over the base for {idle:.0f} s"
        return None
