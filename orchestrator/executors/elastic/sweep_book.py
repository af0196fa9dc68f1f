"""What the sweeps of one cluster want and hold, so that each keeps to its share when all want more.

Each sweep writes an entry of its own into the key-value store of Ray's head and reads the others';
there is no process for it. An entry that is not renewed is that of a driver that has ended.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from orchestrator.executors.elastic.sizing import Claim, fair_shares
from orchestrator.spec.sections import ResourceSpec
from orchestrator.system.formatting import count

NAMESPACE = "orchestrate_sweeps"
LOOK_SECONDS = 5.0
"""How often entries are written and read."""
STALE_SECONDS = 60.0
"""How long an entry may stay as it is."""
CONTENDED_SECONDS = 60.0
"""How long another sweep has had less than it wants, and no node has come, before this one keeps to
its share: a cluster that grows has places for both."""


class Store(Protocol):
    """A key-value store that all sweeps of a cluster share."""

    def put(self, key: str, value: str) -> None:
        """Write a value."""

    def read(self) -> dict[str, str]:
        """Every key and its value."""
        ...

    def remove(self, key: str) -> None:
        """Remove a key; one that is not there is passed over."""


class RayStore:
    """The store of Ray's head process."""

    def put(self, key: str, value: str) -> None:
        """Write a value."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(key, value, namespace=NAMESPACE)

    def read(self) -> dict[str, str]:
        """Every key and its value."""
        from ray.experimental import internal_kv

        keys = internal_kv._internal_kv_list("", namespace=NAMESPACE) or []
        found = {key: internal_kv._internal_kv_get(key, namespace=NAMESPACE) for key in keys}
        return {key.decode(): value.decode() for key, value in found.items() if value is not None}

    def remove(self, key: str) -> None:
        """Remove a key."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(key, namespace=NAMESPACE)


@dataclass(frozen=True)
class Entry:
    """What one sweep says of itself; amounts are of `kind`."""

    sweep: str
    kind: str
    """`GPU` where its workers have any, else `CPU`."""
    priority: int
    wants: float
    """What it could use now."""
    holds: float
    short: float
    """Seconds since which it has had less than it wants."""
    beat: int
    """Another number each time."""

    @property
    def words(self) -> str:
        """The sweep, its priority and what it holds."""
        held = f"{self.holds:g} {self.kind}{'' if self.holds == 1 else 's'}"
        return f"{self.sweep} (priority {self.priority}) holds {held}"


class SweepBook:
    """One sweep's entry, and what it reads of the others."""

    def __init__(
        self,
        sweep: str,
        resources: ResourceSpec,
        there: Callable[[], tuple[int, float]],
        note: Callable[[str], None],
        *,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without an entry.

        Args:
            sweep: Its name.
            resources: What its workers have, and its priority.
            there: Gives how many of its workers the nodes hold that are there, and when nodes were
                seen last that had not been there, by the clock.
            note: Told when the cluster begins to be shared, and when it ends.
            store: Where entries are; None: on Ray's head.
            clock: Seconds.
        """
        self._sweep, self._resources, self._there = sweep, resources, there
        self._note, self._clock = note, clock
        self._store: Store = RayStore() if store is None else store
        self._key = f"{sweep}/{uuid.uuid4().hex}"
        self._due, self._beat = 0.0, 0
        self._short_since: float | None = None
        self._seen: dict[str, tuple[int, float]] = {}
        """By key of another sweep, the last number of its entry, and since when it stands."""
        self.others: list[Entry] = []
        """Those of sweeps that run."""
        self.limit = math.inf
        """How many workers this sweep may hold; infinity while nobody is short of any."""

    @property
    def _kind(self) -> str:
        return "GPU" if self._resources.gpus_per_worker else "CPU"

    @property
    def _each(self) -> int:
        """What one worker has."""
        return self._resources.gpus_per_worker or self._resources.cpus_per_worker

    def look(self, wants: int, holds: int) -> None:
        """Write the own entry and read the others', unless that was done a moment ago.

        Args:
            wants: Workers that the sweep could use now.
            holds: Workers that it has.
        """
        now = self._clock()
        if now < self._due:
            return
        self._due, self._beat = now + LOOK_SECONDS, self._beat + 1
        self._short_since = (self._short_since or now) if wants > holds else None
        short = now - self._short_since if self._short_since is not None else 0.0
        own = Entry(
            self._sweep, self._kind, self._resources.priority, float(wants * self._each),
            float(holds * self._each), round(short, 1), self._beat,
        )  # fmt: skip
        self._store.put(self._key, json.dumps(asdict(own)))
        self.others = self._read(now)
        self._keep_to_share(own, now)

    def _read(self, now: float) -> list[Entry]:
        found: list[Entry] = []
        for key, value in self._store.read().items():
            if key == self._key:
                continue
            entry = Entry(**json.loads(value))
            number, since = self._seen.get(key, (-1, now))
            if entry.beat != number:
                since = now
            self._seen[key] = (entry.beat, since)
            if now - since > STALE_SECONDS:
                self._store.remove(key)
                self._seen.pop(key)
            else:
                found.append(entry)
        return found

    def _keep_to_share(self, own: Entry, now: float) -> None:
        there, grew = self._there()
        rivals = [entry for entry in self.others if entry.kind == self._kind]
        waits = [entry for entry in rivals if entry.short >= CONTENDED_SECONDS]
        before = self.limit
        if not waits or now - grew < CONTENDED_SECONDS:
            self.limit = math.inf
            if math.isfinite(before):
                self._note("the cluster has room for all of its sweeps again")
            return
        claims: Mapping[str, Claim] = {
            "": Claim(own.priority, own.wants),
            **{str(n): Claim(entry.priority, entry.wants) for n, entry in enumerate(rivals)},
        }
        share = fair_shares(float(there * self._each), claims)[""]
        self.limit = max(1.0, math.floor(share / self._each + 1e-9))
        if self.limit != before:
            names = ", ".join(f"{e.sweep} (priority {e.priority})" for e in waits)
            self._note(
                f"the cluster is shared with {names}: this sweep (priority {own.priority}) keeps "
                f"{count(int(self.limit), 'worker')} of {there}; what it holds above that is given "
                "back when the trials there have ended"
            )

    @property
    def words(self) -> str:
        """What other sweeps hold, for who waits; empty where there is none."""
        return "; ".join(entry.words for entry in self.others)

    def close(self) -> None:
        """Remove the own entry."""
        self._store.remove(self._key)
