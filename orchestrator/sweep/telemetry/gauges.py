"""The metrics of a running sweep, set by the driver: trials have no process for them.

Ray's agent on the driver's node exports them to Prometheus with Ray's own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from orchestrator.executors.messages import Finished, Message, Reported
from orchestrator.executors.own_workers import OwnWorkers
from orchestrator.executors.pool.pool import Pool
from orchestrator.records.trial_record import STATES
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.telemetry.metrics import METRICS
from orchestrator.system.pulse import Pulse

LOOK_SECONDS = 5.0
"""How often they are set; Ray reads them every ten seconds."""


class Gauge(Protocol):
    """A gauge of Ray's."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Let it show a value."""


def ray_gauges() -> dict[str, Gauge]:
    """A gauge of Ray's for each metric, by its name."""
    from ray.util.metrics import Gauge as RayGauge

    return {
        metric.name: RayGauge(metric.name, metric.summary, ("sweep", *metric.labels))
        for metric in METRICS
    }


class SweepGauges:
    """Hears what trials say, and sets the gauges."""

    def __init__(
        self,
        driver: Driver,
        pool: Pool | None,
        own: OwnWorkers,
        lag: Callable[[], tuple[int, float]],
        *,
        gauges: Callable[[], Mapping[str, Gauge]] = ray_gauges,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin with nothing running.

        Args:
            driver: The sweep.
            pool: Where trials run that can be packed, if there is one.
            own: Those of the other trials.
            lag: How many lines of the journal MLflow lacks, and the age of the oldest in seconds.
            gauges: Makes them, by name.
            clock: Seconds since the epoch, as the journal writes them.
        """
        self._driver, self._pool, self._own, self._lag = driver, pool, own, lag
        self._gauges, self._clock = gauges(), clock
        self._asked: dict[str, float] = {}
        """Since when each trial waits that runs and has no slot yet."""
        self._saved: dict[str, float] = {}
        """When each trial at work was saved last, or began."""
        self._looked = clock()
        self._due = self._looked
        self._pulses: dict[str, Pulse] = {}

    def starts(self, name: str) -> None:
        """A trial is given to its executor."""
        self._asked[name] = self._clock()

    def heard(self, name: str, message: Message) -> None:
        """A trial says something."""
        self._asked.pop(name, None)
        self._saved.setdefault(name, self._clock())
        if isinstance(message, Reported | Finished) and message.checkpoint_path is not None:
            self._saved[name] = self._clock()

    def ends(self, name: str) -> None:
        """A trial does not run any more."""
        self._asked.pop(name, None)
        self._saved.pop(name, None)

    def look(self, *, at_once: bool = False) -> None:
        """Set the gauges, unless that was done a moment ago.

        Args:
            at_once: Whether they are set whenever that was.
        """
        now = self._clock()
        if now < self._due and not at_once:
            return
        self._due = now + LOOK_SECONDS
        self._set_trials(now)
        self._set_tokens(now)
        lines, seconds = self._lag()
        self._set("orchestrate_projection_lag_lines", lines)
        self._set("orchestrate_projection_lag_seconds", seconds)
        self._looked = now

    def _set_trials(self, now: float) -> None:
        records = [trial.record for trial in self._driver.trials.values()]
        counts = Counter(record.state for record in records)
        for state in STATES:
            self._set("orchestrate_trials", counts[state], state=state)
        at_work = [self._driver.trials[name].record for name in self._saved]
        reported = [now - record.told for record in at_work if record.told is not None]
        slots = self._pool.slots if self._pool is not None else 0
        self._set("orchestrate_slots", slots + self._own.running)
        self._set("orchestrate_slots_used", len(at_work))
        self._set("orchestrate_queue_seconds", _longest(now, self._asked))
        self._set("orchestrate_last_report_age_seconds", max(reported, default=0.0))
        self._set("orchestrate_last_checkpoint_age_seconds", _longest(now, self._saved))

    def _set_tokens(self, now: float) -> None:
        pulses = {**(self._pool.pulses if self._pool is not None else {}), **self._own.pulses}
        # A worker that was started again counts from 0.
        tokens = sum(_more(p.tokens, self._pulses, n, "tokens") for n, p in pulses.items())
        padded = sum(_more(p.padded, self._pulses, n, "padded") for n, p in pulses.items())
        seconds = now - self._looked
        if seconds > 0:
            # Only the first worker of several says so, and each has as much as the others.
            workers = self._driver.experiment.resources.workers
            self._set("orchestrate_tokens_per_second", workers * tokens / seconds)
        if padded:
            self._set("orchestrate_useful_share", tokens / padded)
        self._pulses = pulses

    def _set(self, name: str, value: float, **labels: Any) -> None:
        self._gauges[name].set(value, {"sweep": self._driver.journal.folder.name, **labels})

    def close(self) -> None:
        """Show, at the end, that nothing runs any more."""
        self._asked.clear()
        self._saved.clear()
        self.look(at_once=True)


def _longest(now: float, since: Mapping[str, float]) -> float:
    return max((now - each for each in since.values()), default=0.0)


def _more(count: int, before: Mapping[str, Pulse], name: str, field: str) -> int:
    """By how much a count of a worker has grown."""
    known: int = getattr(before[name], field) if name in before else 0
    return count - known if count >= known else count
