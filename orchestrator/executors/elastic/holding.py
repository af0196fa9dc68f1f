"""What a sweep holds of its cluster: as much as its trials need and as other sweeps leave to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from orchestrator.executors.elastic.room import ClusterRoom, Room
from orchestrator.executors.elastic.sizing import PoolSize
from orchestrator.executors.elastic.sweep_book import SweepBook
from orchestrator.executors.own_workers import OwnWorkers
from orchestrator.executors.pool.pool import Pool
from orchestrator.spec.sections import ResourceSpec


class Holding:
    """Follows the cluster, the trials and the other sweeps; used from the driver's one thread."""

    def __init__(
        self,
        sweep: str,
        resources: ResourceSpec,
        trials: Callable[[], int],
        note: Callable[[str], None],
        *,
        shared: bool,
    ) -> None:
        """Begin with nothing held.

        Args:
            sweep: Its name.
            resources: Of the sweep.
            trials: Gives how many of its trials could run at a time.
            note: Told when the cluster begins to be shared, and when it ends.
            shared: Whether other sweeps may run on the cluster.
        """
        self._resources, self._trials = resources, trials
        self._room = room = ClusterRoom(resources)
        self._size = PoolSize(resources, room, trials, self._share)
        there: Callable[[], tuple[int, float]] = lambda: (room().there, room.grew)  # noqa: E731
        self._book = SweepBook(sweep, resources, there, note) if shared else None

    @property
    def room(self) -> Room:
        """The room of the cluster, as it was a moment ago."""
        return self._room()

    def members(self) -> int:
        """How many members the pool is to have now."""
        return self._size()

    @property
    def crowded(self) -> bool:
        """Whether other sweeps leave fewer members to this one than it wants."""
        return self._size() < self._size.wanted()

    @property
    def draining(self) -> Mapping[str, float]:
        """The nodes that are about to be taken away, by id: when, in seconds since the epoch."""
        return self._room.draining

    @property
    def workers(self) -> float:
        """How many workers all trials and members together may have now, at most."""
        most = self._resources.max_workers or math.inf
        return most if self._book is None else min(most, self._book.limit)

    def _share(self, wanted: int) -> int:
        """As many of some wanted workers as other sweeps leave."""
        return int(min(wanted, self.workers))

    def fit(self, pool: Pool | None, own: OwnWorkers) -> None:
        """Let what is held follow what is wanted.

        Args:
            pool: The pool, where there is one.
            own: The trials with workers of their own.
        """
        if self._book is not None:
            workers = self._resources.workers
            held = own.running + (pool.placed if pool is not None else 0)
            if pool is not None and pool.is_open:
                wanted = self._size.wanted() + own.running
            else:
                wanted = min(self._trials(), self.room.most // workers)
            self._book.look(wanted * workers, held * workers)
        if pool is not None:
            pool.fit()

    @property
    def words(self) -> str:
        """What other sweeps hold; empty where there is none."""
        return "" if self._book is None else self._book.words

    def close(self) -> None:
        """Let other sweeps know that this one wants nothing any more."""
        if self._book is not None:
            self._book.close()
