"""The trials with workers of their own, seen from the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.executors.desk import Heard
from orchestrator.executors.job import Job
from orchestrator.executors.messages import Failed, Message, Ready
from orchestrator.executors.watching.fault import Fault, TellFault
from orchestrator.executors.watching.progress_watch import ProgressWatch
from orchestrator.system.pulse import Pulse


@dataclass
class _Run:
    """A trial that runs, or has just ended."""

    job: Job
    actor: Any
    work: Any
    visit: Any
    said: list[Message] = field(default_factory=list["Message"])
    over: bool = False
    died: bool = False
    """Whether it ended because its process did, again and again."""
    deaths: int = 0
    watch: ProgressWatch = field(default_factory=ProgressWatch)
    placed: bool = False
    """Whether its workers run."""
    ready: bool = False
    """Whether its workers have said that they begin."""


class OwnWorkers:
    """The trials that run by the executor `train`."""

    def __init__(
        self, shared: list[Any], fault: TellFault, note: Callable[[str], None]
    ) -> None:  # fmt: skip
        """Begin without trials.

        Args:
            shared: A list holding the reference of the prepared data.
            fault: Told of processes that have died, or hang.
            note: Told, in words, of workers that come no further for a while.
        """
        self._shared, self._fault, self._note = shared, fault, note
        self._runs: dict[str, _Run] = {}

    def begin(self, job: Job) -> None:
        """Start a trial."""
        self._runs[job.trial] = _Run(job, *self._started(job))

    def _started(self, job: Job) -> tuple[Any, Any, Any]:
        from orchestrator.executors.train import train_trial

        actor = train_trial()
        return actor, actor.run.remote(job, self._shared), actor.swap.remote()

    @property
    def unplaced(self) -> list[str]:
        """The trials whose workers wait for a place on the cluster."""
        return [name for name, run in self._runs.items() if run.work and not run.placed]

    @property
    def running(self) -> int:
        """How many trials have workers."""
        return sum(run.placed for run in self._runs.values() if not run.over)

    @property
    def pulses(self) -> dict[str, Pulse]:
        """By trial, how its first worker stood with its work at its last sign."""
        return {name: run.watch.pulse for name, run in self._runs.items()}

    @property
    def futures(self) -> list[Any]:
        """What to wait for: whichever of these is there, `take_in` goes on with."""
        return [f for run in self._runs.values() for f in (run.visit, run.work) if f is not None]

    def take_in(self, ready: Sequence[Any]) -> None:
        """Go on with trials that have something to say, or have ended.

        Args:
            ready: Those of `futures` that are there.
        """
        for run in self._runs.values():
            if run.visit is not None and run.visit in ready:
                self._heard(run)
            if run.work is not None and run.work in ready:
                self._ended(run)
            self._look(run)

    def _look(self, run: _Run) -> None:
        """Let other workers take the place of those that come no further."""
        why = run.watch.trouble() if run.work is not None else None
        if why is not None:
            self._fault(Fault("trial_hung", run.job.trial, why, (run.job.trial,)))
            _end(run)
            self._again(run, f"its workers came no further ({why})")
        elif run.placed and run.work is not None and (slow := run.watch.stall()) is not None:
            self._note(f"{run.job.trial}: {slow}")

    def _heard(self, run: _Run) -> None:
        import ray
        from ray.exceptions import ActorDiedError, RayError

        try:
            found: Heard = ray.get(run.visit)
            run.watch.hear(found.pulse, found.silent)
            run.placed = run.placed or found.pulse is not None or bool(found.said)
            run.said += self._words(run, _said(found))
        except ActorDiedError:  # which its work tells, too
            run.visit = None
            return
        except RayError:  # a passing trouble: the end of the trial repeats what was reported
            pass
        run.visit = run.actor.swap.remote()

    def _words(self, run: _Run, said: list[Message]) -> list[Message]:
        """What was said; workers that begin once more were started again by Ray Train."""
        for message in said:
            if isinstance(message, Ready):
                if run.ready:
                    why = "Ray Train has started them again"
                    self._fault(Fault("workers_died", run.job.trial, why, (run.job.trial,)))
                    run.watch = ProgressWatch()
                run.ready = True
        return said

    def _again(self, run: _Run, reason: str) -> bool:
        """Start a trial's process once more; False where it was started often enough."""
        run.deaths += 1
        if run.deaths <= run.job.experiment.resources.max_failures:
            run.actor, run.work, run.visit = self._started(run.job)
            run.watch, run.ready, run.placed = ProgressWatch(), False, False
            return True
        run.over = run.died = True
        if reason:
            run.said.append(Failed(reason))
        return False

    def _ended(self, run: _Run) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            last = ray.get(run.work)
            # What was reported before, and is still on its desk.
            for visit in (run.visit, run.actor.swap.remote()):
                if visit is not None:
                    run.said += _said(ray.get(visit))
        except RayError as error:
            _end(run)
            why = str(error).strip().rpartition("\n")[2]
            if self._again(run, ""):
                self._fault(Fault("trial_died", run.job.trial, why, (run.job.trial,)))
            elif isinstance(error, RayTaskError):  # it raised, and says why
                run.said.append(Failed(why, str(error)))
            return
        run.said += last
        run.over = True
        _end(run)

    def news(self) -> Iterator[tuple[str, Message]]:
        """What is said of trials."""
        for trial, run in list(self._runs.items()):
            said, run.said = run.said, []
            for message in said:
                yield trial, message

    def over(self) -> dict[str, bool]:
        """The trials that have ended since this was last asked, and whether they died."""
        ended = {name: run.died for name, run in self._runs.items() if run.over and not run.said}
        for name in ended:
            del self._runs[name]
        return ended

    def end(self, trial: str) -> None:
        """End a trial, whatever it does; one that is not here is passed over."""
        run = self._runs.pop(trial, None)
        if run is not None:
            _end(run)

    def close(self) -> None:
        """End all."""
        for trial in list(self._runs):
            self.end(trial)


def _said(found: Any) -> list[Message]:
    """The messages of a visit."""
    heard: Heard = found
    return [message for _, message in heard.said]


def _end(run: _Run) -> None:
    """End a trial's process, and with it all that it has started."""
    import ray

    if run.actor is not None:
        ray.kill(run.actor)
    run.actor = run.work = run.visit = None
