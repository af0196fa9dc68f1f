"""Who may write: a lease that its holder renews, so that a second driver is refused at once.

A lease is a numbered object that can be made only once, with two others beside it: one that its
holder writes every few seconds, and one that says that it is given back. It keeps a second driver
from beginning; that no two ever write is kept by the lines themselves, see `segments`.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from orchestrator.system.scratch import birth, machine_mark
from orchestrator.system.stores.errors import HeldError, StoreError
from orchestrator.system.stores.store import Store

RENEWED_SECONDS = 5.0
LOST_SECONDS = 30.0
"""A holder that has not renewed its lease for so long is taken for lost."""


class Lease:
    """A lease that this process holds."""

    def __init__(self, store: Store, name: str, number: int) -> None:
        """Begin to renew it; made by `take`."""
        self._store, self._place, self._next = store, _place(name, number), _place(name, number + 1)
        self.mark = f"{number}-{uuid.uuid4().hex[:8]}"
        """What no other holder has."""
        self.overtaken = False
        """Whether another process was seen to have taken the next one."""
        self._given_back = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        count = 0
        while not self._given_back.wait(RENEWED_SECONDS):
            count += 1
            # A store that is away for a while costs no lease: the next word may come through.
            with suppress(StoreError):
                self._store.put(f"{self._place}.alive", f"{self.mark} {count}".encode())
                if self._store.version(self._next) is not None:
                    self.overtaken = True
                    return

    def give_back(self) -> None:
        """Let the next writer begin at once."""
        self._given_back.set()
        self._thread.join()
        # Where the store does not answer, the next writer waits until this one counts as lost.
        with suppress(StoreError):
            self._store.put(f"{self._place}.ended", self.mark.encode())


def take(
    store: Store, name: str, what: str, *, sleep: Callable[[float], object] = time.sleep
) -> Lease:
    """Take the lease of something that one process may write.

    Args:
        store: The store.
        name: The folder of its leases.
        what: What is written, for the message.
        sleep: Waits so many seconds; while a holder on another machine may have died.

    Returns:
        The lease.

    Raises:
        HeldError: If another process holds it; the message names it.
        StoreError: If the store does not answer.
    """
    number, holder = _last(store, name)
    if holder is not None and not _is_gone(holder):
        seen, waited = _alive(store, name, number), 0.0
        while not _is_ended(store, name, number) and waited < LOST_SECONDS:
            if waited and _alive(store, name, number) != seen:
                raise HeldError(_held(what, holder))
            sleep(1.0)
            waited += 1.0
    own = {
        "node": platform.node(), "machine": machine_mark(), "pid": os.getpid(),
        "began": birth(os.getpid()), "id": uuid.uuid4().hex,
    }  # fmt: skip
    if not store.create(_place(name, number + 1), json.dumps(own).encode()):
        _, winner = _last(store, name)
        raise HeldError(_held(what, winner or {}))
    return Lease(store, name, number + 1)


def held_elsewhere(store: Store, name: str) -> bool:
    """Whether a process seems to hold the lease: it has not given it back, and may be alive."""
    number, holder = _last(store, name)
    return holder is not None and not _is_ended(store, name, number) and not _is_gone(holder)


def _place(name: str, number: int) -> str:
    return f"{name}/{number:08d}"


def _last(store: Store, name: str) -> tuple[int, dict[str, Any] | None]:
    """The number of the last lease and its holder; 0 and None before the first."""
    numbers = [int(child) for child in store.children(name) if child.isdigit()]
    if not numbers:
        return 0, None
    content = store.get(_place(name, max(numbers)))
    holder: dict[str, Any] = {}
    with suppress(ValueError):
        holder = json.loads(content or b"{}")
    return max(numbers), holder


def _alive(store: Store, name: str, number: int) -> bytes | None:
    return store.get(f"{_place(name, number)}.alive")


def _is_ended(store: Store, name: str, number: int) -> bool:
    return store.version(f"{_place(name, number)}.ended") is not None


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a holder was a process of this machine that has ended."""
    here = holder.get("machine") == machine_mark()
    return here and holder.get("began") != birth(int(holder.get("pid") or 0))


def _held(what: str, holder: dict[str, Any]) -> str:
    who = f" (process {holder.get('pid')} on {holder.get('node')})" if holder else ""
    return (
        f"Another process{who} is running {what}. Wait for it, stop it, or start another sweep "
        f"with --new. Should its machine be gone, it counts as lost after {LOST_SECONDS:.0f} s."
    )
