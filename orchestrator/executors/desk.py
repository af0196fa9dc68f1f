"""Where a worker and the driver meet: what the worker has said, and what it is to do.

A desk stands in a process of a worker, or of an actor that speaks for several. The worker lays
down messages and takes up orders; the driver swaps orders for messages, and waits at the desk
until there are some. Nothing here knows of Ray, torch or methods.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.executors.messages import Message, Todo
from orchestrator.system.pulse import Pulse

SWAP_SECONDS = 0.5
"""How long the driver waits at a desk for something to be said. Orders that it has meanwhile come
with its next visit."""


@dataclass(frozen=True)
class Admission:
    """The answer to a worker that asks whether it may begin."""

    deaths: int | None
    """How often in a row it has died with work in it; None if it is not to begin."""


@dataclass(frozen=True)
class Heard:
    """What the driver finds on a desk."""

    said: tuple[tuple[str, Message], ...] = ()
    """Trial and message, in order."""
    incarnation: str = ""
    """The start of the worker that said it; empty before the first one works."""
    free: int = 0
    """How many more jobs it can take."""
    silent: float = 0.0
    """Seconds since it gave a sign of life."""
    begins: bool = False
    """Whether it waits to be told how often it has died."""
    pulse: Pulse | None = None
    """How it stood with its work at that sign; None where it has not said."""
    node: str = ""
    """The id of the node that its process is on; empty where it has several."""


class Desk:
    """Messages one way, orders the other; for one worker, whose starts are told apart."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty.

        Args:
            clock: Seconds.
        """
        self._changed = threading.Condition()
        self._clock = clock
        self._said: deque[tuple[str, tuple[str, Message]]] = deque()
        """Each message with the incarnation that said it."""
        self._incarnation = ""
        self._free = 0
        self._todo = Todo()
        self._sign = clock()
        self._pulse: Pulse | None = None
        self._begins = False
        self._deaths: int | None = None

    # ------------------------------------------------------------------------------ the worker

    def begin(self) -> int | None:
        """Wait until the driver has said how often this worker has died.

        Returns:
            The number; None if it is not to start.
        """
        with self._changed:
            self._begins, self._deaths, self._sign = True, None, self._clock()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._begins or self._todo.close)
            return self._deaths

    def beat(self, pulse: Pulse | None = None) -> None:
        """Give a sign of life, and say how it stands with the work."""
        with self._changed:
            self._sign = self._clock()
            self._pulse = pulse or self._pulse

    def say(self, trial: str, message: Message) -> None:
        """Lay down a message outside of an exchange."""
        with self._changed:
            self._said.append((self._incarnation, (trial, message)))
            self._changed.notify_all()

    def exchange(self, incarnation: str, said: Sequence[tuple[str, Message]], free: int) -> Todo:
        """Lay down messages, and take up what is to be done.

        Args:
            incarnation: Another one for each start of the worker.
            said: Trial and message, in order.
            free: How many more jobs it can take.

        Returns:
            What to do.
        """
        with self._changed:
            self._sign = self._clock()
            news = bool(said) or incarnation != self._incarnation or free > self._free
            if incarnation != self._incarnation:
                # What was meant for the one before is handed out anew.
                self._incarnation, self._todo = incarnation, Todo(close=self._todo.close)
            self._said += [(incarnation, each) for each in said]
            todo, self._todo = self._todo, Todo(close=self._todo.close)
            self._free = free - len(todo.join)
            if news:
                self._changed.notify_all()
            return todo

    # ------------------------------------------------------------------------------ the driver

    def swap(
        self,
        todo: Todo,
        known: str,
        admission: Admission | None = None,
        wait: float = SWAP_SECONDS,
    ) -> Heard:
        """Leave orders, and wait for messages.

        Args:
            todo: What the worker is to do. Only whether it is to end holds for every incarnation.
            known: The incarnation that the rest is meant for, see `Heard`.
            admission: The answer to a worker that asked to begin.
            wait: Seconds at most, if nothing is said.

        Returns:
            What there is, of one incarnation.
        """
        with self._changed:
            orders = todo if known == self._incarnation else Todo()
            self._todo = Todo(
                (*self._todo.join, *orders.join),
                (*self._todo.drop, *orders.drop),
                todo.close or self._todo.close,
                self._todo.all_there or orders.all_there,
                self._todo.save or orders.save,
            )
            if admission is not None:
                self._begins, self._deaths = False, admission.deaths
            if todo.close or admission is not None:
                self._changed.notify_all()
            free = self._free - len(self._todo.join)
            self._changed.wait_for(lambda: self._has_news(known, free), wait)
            of = self._said[0][0] if self._said else self._incarnation
            said: list[tuple[str, Message]] = []
            while self._said and self._said[0][0] == of:
                said.append(self._said.popleft()[1])
            room = self._free - len(self._todo.join) if of == self._incarnation else 0
            silent = self._clock() - self._sign
            return Heard(tuple(said), of, max(0, room), silent, self._begins, self._pulse)

    def _has_news(self, known: str, free: int) -> bool:
        grown = self._free - len(self._todo.join) > free
        return bool(self._said) or self._begins or grown or self._incarnation != known
