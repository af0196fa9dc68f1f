"""The interface to Ray Tune: jobs out, reports in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Message, from_metrics
from orchestrator.sweep.protocols import Wait


class TuneSearcher(Searcher):
    """What Ray Tune asks for trials: hands out the jobs that the driver decides on."""

    def __init__(
        self,
        next_job: Callable[[str], Job | Wait | None],
        ended: Callable[[str, bool], None],
    ) -> None:
        """Connect Tune to the sweep.

        Args:
            next_job: Gives the next job for a Tune trial id, `WAIT` when it does not fit beside
                those that run, None when there is none left.
            ended: Told the Tune trial id, and whether Tune saw an error, when a trial ends.
        """
        super().__init__(metric=None, mode=None)
        self._next_job = next_job
        self._ended = ended

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next trial's configuration; None for "later", or that there is none left."""
        job = self._next_job(trial_id)
        if isinstance(job, Wait):
            return None
        return Searcher.FINISHED if job is None else job.as_config()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended."""
        del result  # everything of value came through reports
        self._ended(trial_id, error)

    def __getstate__(self) -> dict[str, Any]:
        # Tune keeps a copy of itself on disk; the sweep it talks to stays in this process.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record."""


class BudgetStopper(Stopper):
    """Ends what runs once the sweep has spent too much."""

    def __init__(self, over_budget: Callable[[], bool]) -> None:
        """Connect Tune to the sweep.

        Args:
            over_budget: Whether it has.
        """
        self._over_budget = over_budget

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is ended by what it reports."""
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        """Asked by Tune again and again."""
        return self._over_budget()


class TuneRecorder(Callback):
    """Hands what trials report to the sweep, in the driver's own process."""

    def __init__(
        self,
        hear: Callable[[str, Message], None],
        starting: Callable[[str], None],
    ) -> None:
        """Connect Tune to the sweep.

        Args:
            hear: Told the Tune trial id and each message.
            starting: Told the Tune trial id when its process starts.
        """
        self._hear = hear
        self._starting = starting

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is being started."""
        del iteration, trials, info
        self._starting(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        del iteration, trials, info
        message = from_metrics(result)
        if message is not None:
            self._hear(trial.trial_id, message)
        # Tune keeps each trial's last result, and the last message repeats every report.
        for key in ("report", "reports"):
            result.pop(key, None)
