"""A scheduler of Ray Tune, asked about the trials that the driver runs.

Tune's own loop would start a process for each trial, only to pass on what workers say. The driver
has the reports anyway; a scheduler is told of them as Tune tells it, and answers whether a trial
goes on.
"""

from __future__ import annotations

import math
import time
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Message, Reported
from orchestrator.records.stage_report import StageReport


class TuneScheduler:
    """Says which trials are to be stopped."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        """Begin without trials.

        Args:
            scheduler: One that stops trials, and neither pauses nor changes them.
        """
        self._scheduler = scheduler
        self._trials: dict[str, Trial] = {}
        self._row_0: dict[str, tuple[float | None, ...] | None] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._begun: dict[str, float] = {}

    def begins(self, job: Job) -> None:
        """A trial starts."""
        trial = Trial("sweep", stub=True, trial_id=job.trial, _setup_default_resource=False)
        trial.set_status(Trial.RUNNING)
        self._trials[job.trial], self._row_0[job.trial] = trial, job.row_0
        self._begun[job.trial] = time.monotonic()
        self._scheduler.on_trial_add(self, trial)  # type: ignore[arg-type]

    def stops(self, name: str, message: Message) -> bool:
        """Tell the scheduler what a trial says: `gain` and `tasks_learnt`, after each task.

        Where every task was scored by example, `per_example` has what each adds to `gain`, as
        `RaceScheduler` reads it.

        Args:
            name: The trial.
            message: What it says.

        Returns:
            Whether it is to be stopped.
        """
        gain = self._gain(name, message)
        if gain is None or not isinstance(message, Reported):
            return False
        learnt = message.report.task_index + 1
        self._last[name] = {
            **self._examples(message.report),
            "gain": gain, "tasks_learnt": learnt, "training_iteration": learnt, "trial_id": name,
            "time_total_s": time.monotonic() - self._begun[name],
        }  # fmt: skip
        decision = self._scheduler.on_trial_result(self, self._trials[name], self._last[name])  # type: ignore[arg-type]
        return decision == TrialScheduler.STOP

    def ends(self, name: str) -> None:
        """A trial is over."""
        trial = self._trials.pop(name, None)
        if trial is None:
            return
        trial.set_status(Trial.TERMINATED)
        last = self._last.pop(name, None)
        if last is None:
            self._scheduler.on_trial_remove(self, trial)  # type: ignore[arg-type]
        else:
            self._scheduler.on_trial_complete(self, trial, last)  # type: ignore[arg-type]

    def _gain(self, name: str, message: Message) -> float | None:
        """The mean difference to row 0 of the tasks that are known in both."""
        row_0 = self._row_0.get(name)
        if not isinstance(message, Reported) or message.report.row is None or row_0 is None:
            return None
        pairs = [
            (now, before)
            for now, before in zip(message.report.row, row_0, strict=True)
            if before is not None and math.isfinite(now + before)
        ]
        return sum(now - before for now, before in pairs) / len(pairs) if pairs else None

    def _examples(self, report: StageReport) -> dict[str, Any]:
        """What each example adds to `gain`; nothing where a task has no scores of examples."""
        each = {task: scores for task, scores in (report.per_example or {}).items() if scores}
        if not each or len(each) < len(report.row or ()):
            return {}
        shares = {task: [score / len(each) for score in scores] for task, scores in each.items()}
        return {"per_example": {"gain": shares}}

    # What a scheduler may ask of Tune's controller, in whose place this stands.

    def get_trials(self) -> list[Trial]:
        """All trials that run."""
        return list(self._trials.values())

    def get_live_trials(self) -> list[Trial]:
        """The same."""
        return self.get_trials()
