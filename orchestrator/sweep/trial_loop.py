"""The loop of a sweep on Ray: trials are started, heard and ended, in the driver's one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Message
from orchestrator.executors.own_workers import OwnWorkers
from orchestrator.executors.pool.mailbox import ENDINGS
from orchestrator.executors.pool.pool import Pool
from orchestrator.executors.watching.starvation import Starvation
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.telemetry.gauges import SweepGauges

if TYPE_CHECKING:
    from orchestrator.sweep.tune_scheduler import TuneScheduler

WAIT_SECONDS = 0.25
"""How long the loop waits for something to be said before it looks whether more can be started."""


class TrialLoop:
    """Runs what a driver has to run, until there is nothing left."""

    def __init__(
        self,
        driver: Driver,
        pool: Pool | None,
        own: OwnWorkers,
        *,
        scheduler: TuneScheduler | None,
        beside: Callable[[], None],
        starvation: Starvation,
        gauges: SweepGauges,
        fit: Callable[[], None],
    ) -> None:
        """Begin with nothing running.

        Args:
            driver: Says what is to run, and is told what happens.
            pool: For trials that can be packed, if there is one.
            own: For all others.
            scheduler: Asked whether trials go on.
            beside: Called whenever a trial has started or ended.
            starvation: Tells what waits for a place for long.
            gauges: Show outside what happens.
            fit: Called in every turn: has workers start or end as the cluster and the trials ask.
        """
        self._driver, self._pool, self._own = driver, pool, own
        self._scheduler, self._beside, self._starvation = scheduler, beside, starvation
        self._gauges, self._fit = gauges, fit
        self._running: dict[str, Job] = {}

    def run(self, raise_if_interrupted: Callable[[], None]) -> None:
        """Go on until there is nothing left to run, or the sweep has spent too much.

        Args:
            raise_if_interrupted: Asked in every turn.
        """
        while self._start_what_fits() or self._running:
            raise_if_interrupted()
            self._gauges.look()
            self._fit()
            self._wait()
            of_pool = self._pool.unplaced if self._pool is not None else ()
            self._starvation.look([*of_pool, *self._own.unplaced])
            for name, message in self._news():
                if name in self._running:
                    self._hear(name, message)
            for name, died in self._own.over().items():
                if name in self._running:
                    self._ended(name, died)
            for name in [name for name in self._running if self._driver.stops(name)]:
                self._own.end(name)
                self._ended(name, died=False)
            if self._driver.budget.allowed and self._driver.over_budget():
                return

    def _start_what_fits(self) -> bool:
        """Start trials; False once no more will come."""
        while isinstance(job := self._driver.next_job(), Job):
            self._running[job.trial] = job
            self._driver.starting(job.trial)
            self._gauges.starts(job.trial)
            if self._scheduler is not None:
                self._scheduler.begins(job)
            if job.executor == "pool" and self._pool is not None:
                self._pool.ask(job)
            else:
                self._own.begin(job)
            self._beside()
        return job is not None

    def _wait(self) -> None:
        import ray

        futures = [*self._own.futures, *(self._pool.futures if self._pool is not None else ())]
        if not futures:  # what waits for a member that is gone is told so by its mailbox
            time.sleep(WAIT_SECONDS)
            return
        ready, _ = ray.wait(futures, num_returns=1, timeout=WAIT_SECONDS)
        if ready:
            ready, _ = ray.wait(futures, num_returns=len(futures), timeout=0)
        self._own.take_in(ready)
        if self._pool is not None:
            self._pool.take_in(ready)

    def _news(self) -> list[tuple[str, Message]]:
        of_pool = self._pool.news() if self._pool is not None else ()
        return [*of_pool, *self._own.news()]

    def _hear(self, name: str, message: Message) -> None:
        job = self._running[name]
        self._driver.hear(name, message)
        self._gauges.heard(name, message)
        if job.executor == "pool" and isinstance(message, ENDINGS):
            self._ended(name, died=False)
        elif self._driver.stops(name) or (
            self._scheduler is not None and self._scheduler.stops(name, message)
        ):
            self._own.end(name)
            self._ended(name, died=False)

    def _ended(self, name: str, died: bool) -> None:
        del self._running[name]
        if self._scheduler is not None:
            self._scheduler.ends(name)
        self._driver.ended(name, died)
        self._gauges.ends(name)
        self._beside()
