"""What may run now: which executor runs each trial, what fits beside what, and what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from orchestrator.executors.job import Job, TrialExecutor
from orchestrator.executors.pool.admission import base_refuses, trial_refuses
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.sections import ResourceSpec
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.proposals import Proposals
from orchestrator.sweep.protocols import WAIT, Capacity, TrialPool, Wait


class Admission:
    """Chooses the next trial that can start; proposes one where none that waits can."""

    def __init__(self, ledger: Ledger, proposals: Proposals) -> None:
        """Begin with nothing running, and no bounds.

        Args:
            ledger: The sweep's.
            proposals: Of trials that are yet to be proposed.
        """
        self._ledger, self._proposals = ledger, proposals
        self.capacity = Capacity()
        self.pool: TrialPool | None = None
        """Where trials that can be packed run; None: each has workers of its own."""
        self.scheduled = False
        """Whether a scheduler of Ray Tune may stop trials."""
        self.avoid: Callable[[], Sequence[str]] = tuple
        """Gives the ids of nodes on which no worker is placed."""
        self.awaits: Callable[[str, Iterable[str]], bool] = lambda *_: False
        """Whether a trial waits for what one of those that run is learning for both."""
        self.waiting = [t.name for t in ledger.trials.values() if not t.over]
        """The trials that were proposed and do not run."""
        self.running: dict[str, ResourceSpec] = {}
        """What each running trial needs."""
        self._pool_starts = False
        """Whether members were told to start, and none has been heard of since."""
        self._executors: dict[str, TrialExecutor] = {}

    def next(self) -> str | Wait | None:
        """The next trial to start, proposed if need be.

        A trial that does not fit beside those that run lets one other go first: a trial of two
        workers would otherwise leave half of a machine idle until all others have ended.

        Returns:
            Its name, `WAIT` while none fits, or None when there is none left.
        """
        if len(self.running) >= self.capacity.trials:
            return WAIT
        name = self._next_that_fits()
        if name is None and self.waiting and not self.running and self.pool is not None:
            # What waits needs what the members hold, and they have nothing to do.
            if self.pool.is_open:
                self.pool.shut()
            name = self._next_that_fits()
        if name is None:
            later = self.waiting or (self.running and self._proposals.may_come)
            return WAIT if later else None
        return name

    @property
    def held(self) -> list[ResourceSpec]:
        """What workers hold now: those of trials of their own, and those of the pool."""
        own = [each for name, each in self.running.items() if self.executor_of(name) == "train"]
        is_open = self.pool is not None and self.pool.is_open
        return [*own, *(self.pool.resources if self.pool is not None and is_open else ())]

    def admit(self, job: Job) -> Job:
        """Count a trial among those that run.

        Args:
            job: The trial's, without its place.

        Returns:
            The job with its executor; for the pool, which is opened for it, a member is chosen.
        """
        executor = self.executor_of(job.trial)
        self.running[job.trial] = job.experiment.resources
        if self.pool is None or executor != "pool":
            return replace(job, executor=executor, avoid=tuple(self.avoid()))
        if not self.pool.is_open:
            self.pool.open()
            self._pool_starts = True
        self.pool.assign(job.trial)
        return replace(job, executor=executor, row_0=self._ledger.row_0())

    def heard(self, name: str) -> None:
        """A trial has said something, so that what it runs in is there."""
        if self._pool_starts and self.executor_of(name) == "pool":
            self._pool_starts = False
            self._ledger.observer.note("the pool has started")

    def release(self, name: str) -> None:
        """A trial does not run any more."""
        self.running.pop(name, None)
        if self.pool is not None:
            self.pool.release(name)

    def executor_of(self, name: str) -> TrialExecutor:
        """Where a trial runs: in the pool, or in workers of its own."""
        if self.pool is None:
            return "train"
        if name not in self._executors:
            self._executors[name] = self._choose_executor(name)
        return self._executors[name]

    def _choose_executor(self, name: str) -> TrialExecutor:
        experiment = self._ledger.experiment_of(name)
        specs = {task: prepared.spec for task, prepared in self._ledger.data.tasks.items()}
        if name == BASE_TRIAL:
            refused = base_refuses(experiment, specs)
        else:
            refused = trial_refuses(experiment, specs, sweep=self._ledger.experiment)
        return "pool" if refused is None else "train"

    def _next_that_fits(self) -> str | None:
        """A trial that can start now, proposed if need be; None while none can."""
        name = next((name for name in self.waiting if self._fits(name)), None)
        if name is not None:
            self.waiting.remove(name)
            return name
        # Trials that the pool cannot hold gather while it works, so that it is shut seldom. One
        # that it could hold waits for a place; the next is better proposed when more is known.
        most = 1 if self.pool is None else max(1, self.pool.places)
        while self._may_propose(most):
            name = self._proposals.next()
            if name is None or self._fits(name):
                return name
            self.waiting.append(name)
        return None

    def _may_propose(self, most: int) -> bool:
        """Whether another trial may be proposed, with what waits already."""
        awaiting = [name for name in self.waiting if self.awaits(name, self.running)]
        places = self.capacity.trials if self.pool is None else self.pool.places
        # They start as soon as what they wait for is learnt, and have their places till then.
        if awaiting and len(self.running) + len(awaiting) >= places:
            return False
        others = [name for name in self.waiting if name not in awaiting]
        return len(others) <= most and "pool" not in map(self.executor_of, others)

    def _fits(self, name: str) -> bool:
        if self.awaits(name, self.running):
            return False
        if self.scheduled and name != BASE_TRIAL and self._ledger.row_0() is None:
            return False  # a scheduler compares gains over row 0
        held = [own for other, own in self.running.items() if self.executor_of(other) == "train"]
        if self.pool is not None and self.executor_of(name) == "pool":
            if len(self.running) - len(held) >= self.pool.places:
                return False
            return self.pool.is_open or self.capacity.holds([*held, *self.pool.resources])
        if self.pool is not None and self.pool.is_open:
            held += self.pool.resources
        return self.capacity.holds([*held, self._ledger.experiment_of(name).resources])
