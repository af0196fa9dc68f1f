"""What a sweep may spend: whether another trial fits, and when those that run are to end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.records.events import BudgetSpent
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.sections import ResourceSpec
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.system.formatting import count, show_duration

GRACE = 0.1
"""Share of a budget by which trials that run may exceed it."""
LEAST_GRACE = 60.0
"""Seconds of time that they have at least."""
ENOUGH_WORK = 1.0
"""Trials' worth of work after which what they have cost is believed more than a forecast."""
SURE_WORK = 4.0
"""Trials' worth of work after which it is believed alone."""
READINGS = 2
"""Models whose test data are read at the end, each as long as row 0 has taken."""

_NAMES = {"time": "time budget", "core": "compute budget", "gpu": "compute budget"}
Cost = Mapping[str, float]
"""Seconds by what is counted: `time`, `core`, `gpu`."""


@dataclass(frozen=True)
class Forecast:
    """What a trial is expected to cost before any has been run."""

    each: Cost
    """What one more trial adds to what the sweep spends, while its workers are busy."""
    alone: float
    """Seconds that a trial takes from its start to its end, at least."""


class Budget:
    """Counts what a sweep spends; without budgets everything fits."""

    def __init__(
        self,
        ledger: Ledger,
        forecast: Forecast | None = None,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        """Go on from what earlier sessions have spent.

        Args:
            ledger: The sweep's.
            forecast: What a trial is expected to cost; None: unknown, and the first ones just run.
            clock: Seconds.
            began: When this session began, by the clock; None: now.
        """
        self._ledger, self._forecast, self._clock = ledger, forecast, clock
        search = ledger.experiment.search
        self.allowed: Cost = search.budgets if search is not None else {}
        before = ledger.state.spent
        self.spent = {
            "time": before.seconds, "core": before.core_seconds, "gpu": before.gpu_seconds,
        }  # fmt: skip
        self._before = before.trials
        self._at = self._clock() if began is None else began
        self._prepared: dict[str, float] | None = None
        """What was spent before this session's first trial: processes, data, row 0."""
        self._first: dict[str, float] = {}
        self._now: dict[str, float] = {}
        """Shares done of each trial of this session: when it was first heard of, and now."""
        self.ended = False
        """Whether a budget has ended the search, though there are trials left to propose."""
        self.cut = False
        """Whether what ran has been ended because a budget was overdrawn."""

    # --------------------------------------------------------------------------- what is spent

    def tick(self, held: Sequence[ResourceSpec]) -> None:
        """Count the time since the last call.

        Args:
            held: What workers have held meanwhile.
        """
        now = self._clock()
        passed, self._at = now - self._at, now
        self.spent["time"] += passed
        self.spent["core"] += passed * sum(r.workers * r.cpus_per_worker for r in held)
        self.spent["gpu"] += passed * sum(r.workers * r.gpus_per_worker for r in held)

    def started(self, trial: str, share: float) -> None:
        """Note that a trial begins with so much of it done, from 0 to 1, by earlier sessions."""
        if trial != BASE_TRIAL:
            self._prepared = self._prepared or dict(self.spent)
            self._first[trial] = self._now[trial] = share

    def progress(self, trial: str, share: float) -> None:
        """Note how much of a trial that has started is done, from 0 to 1."""
        if trial in self._now:
            self._now[trial] = max(share, self._now[trial])

    def trial_ended(self, trial: str, *, whole: bool) -> None:
        """Note that a trial is over, and journal what is spent."""
        if whole:
            self.progress(trial, 1.0)
        if self.allowed:
            self._ledger.record(
                BudgetSpent(
                    *(round(self.spent[kind], 3) for kind in ("time", "core", "gpu")),
                    trials=round(self.work, 4),
                )
            )

    @property
    def work(self) -> float:
        """Trials' worth of work that all sessions have done."""
        return self._before + sum(self._now[name] - self._first[name] for name in list(self._now))

    # ------------------------------------------------------------------------- what is decided

    def fits(self, more: int = 1) -> bool:
        """Whether so many more trials, beside those that are not over, can end in time."""
        searched = self._ledger.searched()
        if not self.allowed or not searched:
            return True
        open_work = sum(
            1.0 - self._now.get(trial.name, 0.0) for trial in searched if not trial.over
        )
        if any(self.spent[kind] >= bound for kind, bound in self.allowed.items()):
            return False
        if "time" in self.allowed and self._left("time") < self._shortest():
            return False
        return all(
            (open_work + more) * self.each(kind) <= self._left(kind) for kind in self.allowed
        )

    @property
    def affordable(self) -> float:
        """How many trials can still be paid for, those that run included; infinity if unknown."""
        each = {kind: self.each(kind) for kind in self.allowed if kind != "time"}
        counts = [max(0.0, self._left(kind)) / cost for kind, cost in each.items() if cost > 0]
        return min(counts, default=math.inf)

    def end(self) -> None:
        """Propose no more trials of the search."""
        self.ended = True

    @property
    def overdrawn(self) -> bool:
        """Whether a budget is exceeded by more than its grace, so that what runs is ended.

        Not before row 0 is known: without it nothing could be judged.
        """
        if self._ledger.base_report() is None:
            return False
        for kind, bound in self.allowed.items():
            spent = self.spent[kind]
            per_second = spent / max(1.0, self.spent["time"])
            least = LEAST_GRACE * (1.0 if kind == "time" else per_second)
            if spent > bound + max(GRACE * bound, least):
                return True
        return False

    def each(self, kind: str) -> float:
        """What a trial costs, by what trials have cost so far, or by the forecast; else 0."""
        expected = self._forecast.each.get(kind, 0.0) if self._forecast is not None else 0.0
        if self.work < ENOUGH_WORK and expected:
            return expected
        seen = self._seen(kind)
        # The first trials may have run alone where many would share a pass.
        return min(seen, expected) if expected and self.work < SURE_WORK else seen

    def _seen(self, kind: str) -> float:
        """What a trial has cost so far; 0 before one's worth of work is done."""
        here = self.work - self._before
        if here >= ENOUGH_WORK and self._prepared is not None:
            return (self.spent[kind] - self._prepared[kind]) / here
        return self.spent[kind] / self.work if self.work >= ENOUGH_WORK else 0.0

    def _left(self, kind: str) -> float:
        """What may still be spent, without what the reading of the test data will take."""
        base = self._ledger.base_report()
        reading = READINGS * base.seconds if base is not None else 0.0
        per_second = 1.0 if kind == "time" else self.spent[kind] / max(1e-9, self.spent["time"])
        return self.allowed[kind] - self.spent[kind] - reading * per_second

    def _shortest(self) -> float:
        """Seconds that a trial takes at least."""
        took = [
            record.ended - record.started
            for record in (trial.record for trial in self._ledger.searched())
            if record.state == "COMPLETE"
            and record.started
            and record.ended
            # What took over what others had learnt says little of one that has to learn it.
            and not any(report.taken_from for report in record.reports)
        ]
        expected = self._forecast.alone if self._forecast is not None else 0.0
        return min(took, default=expected)

    def words(self, missing: int | None) -> str:
        """What ended the search, and what more would buy.

        Args:
            missing: Trials that were asked for and not run; None where the budget alone bounds
                them.

        Returns:
            Two sentences; empty where no budget ended it.
        """
        if not self.ended:
            return ""
        kind = min(self.allowed, key=lambda k: self._left(k) / max(self.each(k), 1e-9))
        done, asked = len(self._ledger.searched()), ""
        if missing is not None:
            asked = f" of {done + missing}"
        told = (
            f"The {_NAMES[kind]} ended the search after {done}{asked} "
            f"trial{'s' if done != 1 or asked else ''}: {_amount(kind, self.spent[kind])} of "
            f"{_amount(kind, self.allowed[kind])} are spent"
        )
        each = self.each(kind)
        if not each:
            return f"{told}; what a trial costs is not known yet."
        told += f", and one more trial takes about {_amount(kind, each)}"
        if missing is not None and missing > 1:
            told += f", the {count(missing, 'trial')} left about {_amount(kind, missing * each)}"
        return f"{told}. A larger budget lets the same command go on."


def _amount(kind: str, seconds: float) -> str:
    if kind == "time" and 0 < seconds < 9.5:
        return f"{seconds:.2g} s"
    if kind == "time" or not math.isfinite(seconds):
        return show_duration(seconds)
    hours = seconds / 3600
    return f"{hours:.3g} {kind}-hours" if hours >= 0.1 else f"{seconds / 60:.2g} {kind}-minutes"
