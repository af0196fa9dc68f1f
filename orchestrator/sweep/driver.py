"""A running sweep: trials are given out, what they say is taken in, and a champion is named.

The driver process journals everything it is told before it acts on it; reading the journal again
gives the same driver. What it decides is decided in `deciding`: which trials there are to be, which
may run now, how they end, who wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator.data.prepared import PreparedData
from orchestrator.executors.job import Job
from orchestrator.executors.messages import (
    Failed,
    Finished,
    Lost,
    MessageHere,
    Progressed,
    Ready,
    Reported,
    WorkSetAside,
)
from orchestrator.executors.watching.fault import Fault
from orchestrator.loop.progress_file import ProgressFile
from orchestrator.records.events import FaultSurvived, StageReported, TrialStarted
from orchestrator.records.journal import Journal
from orchestrator.records.stage_report import StageReport
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.reach import refusal
from orchestrator.sweep.deciding.admission import Admission
from orchestrator.sweep.deciding.asked import Asked
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.endings import Endings
from orchestrator.sweep.deciding.judgement import Judgement
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.deciding.known import NOTHING, Known
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.proposals import Proposals
from orchestrator.sweep.deciding.racing import Racing
from orchestrator.sweep.deciding.shared_work import SharedWork
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.sweep.errors import SweepError, disk_refuses, not_written
from orchestrator.sweep.protocols import WAIT, Observer, Wait
from orchestrator.system.stores.opening import share


class Driver:
    """A running sweep; used from the driver process's one thread."""

    def __init__(
        self,
        loaded: LoadedExperiment,
        journal: Journal,
        observer: Observer,
        data: PreparedData,
        base_measured: Callable[[StageReport], None] | None = None,
        budget: Callable[[Ledger], Budget] = Budget,
        known: Known = NOTHING,
    ) -> None:
        """Go on from what the journal says.

        Args:
            loaded: The experiment and its tasks.
            journal: The sweep's, with its first line.
            observer: Receives what happens.
            data: The tokenised data.
            base_measured: Receives row 0 once it is known.
            budget: Makes what the sweep may spend.
            known: What is known besides these.
        """
        self.ledger = ledger = Ledger(loaded, journal, observer, data, known.state)
        self.experiment, self.data = ledger.experiment, data
        self.journal, self.folder = journal, ledger.folder
        self.observer = observer
        self.state, self.trials = ledger.state, ledger.trials
        self.budget = budget(ledger)
        self.proposals = Proposals(ledger, self.budget, known.prior)
        self.admission = Admission(ledger, self.proposals)
        self._kept = KeptWork(ledger)
        rules = ledger.racing
        self._racing = None if rules is None else Racing(ledger, rules)
        self._shared = SharedWork(ledger, self.admission, known.follows_from)
        self._endings = Endings(
            ledger, self.proposals, self.admission, self._kept, self.budget, base_measured,
            self._racing,
        )  # fmt: skip
        self._asked = Asked(ledger, self.proposals, self.admission, self._endings.finish)
        self.judgement = Judgement(ledger, self.proposals, self._kept, self.budget)
        self._finish_whole_trials()
        self._end_impossible_trials()

    # -------------------------------------------------------------------------------- going on

    def _finish_whole_trials(self) -> None:
        """A driver that died between a trial's last report and its end: the end is now."""
        for name in list(self.admission.waiting):
            trial = self.trials[name]
            if self.ledger.last_report(trial) is None:
                continue
            if name == BASE_TRIAL or self._kept.adapter_flaw(name) is None:
                self.admission.waiting.remove(name)
                self._endings.finish(name)
            else:
                # It is made again, with the report that belongs to it.
                trial.record.forget(trial.last_stage(len(self.experiment.tasks)))

    def _end_impossible_trials(self) -> None:
        """Fail what an older version proposed though it cannot be; the sweep goes on without it."""
        for name in list(self.admission.waiting):
            reason = refusal(self.experiment, self.trials[name].overrides)
            if reason is not None:
                self.admission.waiting.remove(name)
                self._endings.refuse(self.trials[name], reason)

    def adopt_base(self, report: StageReport) -> None:
        """Take row 0 from an earlier measurement of the same base on the same data.

        Args:
            report: What that base trial reported.
        """
        base = self.trials.get(BASE_TRIAL)
        if base is not None and (base.over or base.reports):
            return
        if base is None:
            self.proposals.propose(BASE_TRIAL, {}, "an earlier sweep")
        else:
            self.admission.waiting.remove(BASE_TRIAL)
        self._started(BASE_TRIAL)
        self._stage(self.trials[BASE_TRIAL], report, None)
        self._endings.finish(BASE_TRIAL)

    # ---------------------------------------------------------------------------- what is to run

    @property
    def unfinished(self) -> int:
        """Trials (the base included) that have yet to be run; at most, while the search goes on."""
        return len(self.admission.waiting) + self.proposals.missing

    @property
    def could_run(self) -> int:
        """How many trials could run at a time, were there places: those that run or may come.

        A budget bounds them: what is not paid for asks for no node.
        """
        search, running = self.experiment.search, len(self.admission.running)
        many = float(running + self.unfinished)
        if search is not None:
            many = min(many, search.max_concurrent or many)
        return max(running, math.ceil(min(many, self.budget.affordable)))

    @property
    def given_up(self) -> bool:
        """Whether nothing more is begun, see `Endings.given_up`."""
        return self._endings.given_up

    def over_budget(self) -> bool:
        """Count what is spent; whether what runs has to be ended because it is too much."""
        self._tick()
        if self.budget.overdrawn:
            self.budget.cut = True
        return self.budget.cut

    def end_over_budget(self) -> None:
        """Stop what has not ended, where the sweep has spent too much."""
        if not self.budget.cut:
            return
        self.budget.end()
        self.admission.waiting.clear()
        for trial in self.trials.values():
            if not trial.over:
                self._endings.finish(trial.name)

    def _tick(self) -> None:
        self.budget.tick(self.admission.held)
        self._asked.look()

    def failures_now(self) -> list[Trial]:
        """The trials that failed in this session, in the order in which they did."""
        return self._endings.failures_now()

    def running(self) -> list[str]:
        """The trials that run now; safe to ask from another thread."""
        return list(self.admission.running)

    def next_job(self) -> Job | Wait | None:
        """The next trial that is to run.

        Returns:
            Its job, `WAIT` while none fits, or None when there is none left.
        """
        self._tick()
        if self.given_up or self.budget.cut:
            # What runs may still prove us wrong.
            return WAIT if self.admission.running else None
        while isinstance(name := self.admission.next(), str):
            ProgressFile(self.folder.path, name).remove()
            self._started(name)
            if not self._answered(name):
                break
        if not isinstance(name, str):
            return name
        self._kept.begin(name)
        experiment, maker = self.ledger.experiment_of(name), self._kept.maker(name)
        return self.admission.admit(
            Job(experiment, maker, self.folder, keys=self._shared.keys(name))
        )

    def _answered(self, name: str) -> bool:
        """End a trial that another has been, by what the journal says of that one."""
        twin = self._shared.repeats(name)
        if twin is None or (twin.state == "COMPLETE" and not self._kept.adopt(name, twin.name)):
            return False
        for report in self.ledger.whole_reports(twin):
            self._stage(self.trials[name], replace(report, taken_from=twin.name), None)
        # One that was stopped early may now go on, if nobody is ahead of it any more.
        if twin.state == "STOPPED" and not self.stops(name):
            return False
        self.observer.note(f"{name} has the settings of {twin.name}, and is not trained again")
        self._endings.finish(name)
        return True

    def _started(self, name: str) -> None:
        attempt = self.trials[name].record.attempts + 1
        self.ledger.record(TrialStarted(name, attempt, self.state.versions))
        done = max((index + share for index, share in self.trials[name].reports), default=0.0)
        self.budget.started(name, done / len(self.experiment.tasks))

    # -------------------------------------------------------------------------- what trials say

    def starting(self, name: str) -> None:
        """What a trial runs in is started."""
        self.observer.progress(name, {"phase": "starting"})

    def hear(self, name: str, message: MessageHere) -> None:
        """Take in a message of a trial.

        Args:
            name: The trial.
            message: What it says.

        Raises:
            SweepError: If the sweep cannot go on; the trial is not to blame and is run again.
        """
        trial = self.trials[name]
        self.admission.heard(name)
        self._tick()
        match message:
            case Progressed():
                self.progressed(name, asdict(message.progress))
            case Ready():
                self.observer.progress(name, {"phase": "ready", "pid": message.worker_pid})
                self._stages(trial, message)
            case Reported():
                report = self.ledger.in_order_of_sweep(name, message.report)
                self._stage(trial, report, message.checkpoint_path)
            case Finished():
                self._stages(trial, message)
            case Failed():
                self._failed(trial, message)
            case WorkSetAside():
                self._kept.set_aside(name, message.what, message.kept_as, message.because)
            case Lost():
                raise SweepError(
                    f"No member of the pool is left to run {name}: {message.reason}. What is "
                    "finished is kept; once that is fixed, the same command goes on."
                )

    def progressed(self, name: str, progress: dict[str, Any]) -> None:
        """Note how far a trial is; may be called from another thread."""
        self.budget.progress(name, float(progress.get("done") or 0.0))
        self.observer.progress(name, progress)

    def survived(self, fault: Fault) -> None:
        """Journal something that broke, and whose work since which report is done again."""
        now = self.journal.now()
        lost = {}
        for name in fault.trials:
            since = self.trials[name].record.told
            if not self.trials[name].over and since is not None:
                lost[name] = round(max(0.0, now - since), 1)
        self.ledger.record(FaultSurvived(fault.what, fault.where, fault.because, lost))

    def _failed(self, trial: Trial, message: Failed) -> None:
        if disk_refuses(message.reason):
            # The trial is not to blame, and would be lost; left unfinished, it is run again.
            raise SweepError(not_written(self.folder.path, f"trial {trial.name}", message.reason))
        trial.failure, trial.log = message.reason, message.log
        if trial.log is None:
            trial.log = str(self._logged(trial, message))

    def _logged(self, trial: Trial, message: Failed) -> Path:
        """Write the log of a failed trial that has written none itself; give its place."""
        path = self.folder.log(trial.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                said = message.details or message.reason
                file.write(f"attempt {trial.record.attempts}: {said}\n")
            share(path)
        except OSError as error:
            raise SweepError(
                not_written(self.folder.path, f"the log of {trial.name}", str(error))
            ) from None
        return path

    def _stages(self, trial: Trial, message: Ready | Finished) -> None:
        """Take in those reports of a checkpoint that never arrived."""
        for report in message.reports:
            own = self.ledger.in_order_of_sweep(trial.name, report)
            self._stage(trial, own, message.checkpoint_path)

    def _stage(self, trial: Trial, report: StageReport, checkpoint: Path | None) -> None:
        if report.stage in trial.reports or trial.over:
            return
        last = report.row is not None and report.task_index == len(self.experiment.tasks) - 1
        if last and checkpoint is not None:
            # Copied before it is journalled: a journalled last report has its adapter. The last
            # message repeats all reports, so that it is looked for twice.
            trial.trouble = self._kept.keep_adapter(trial.name, checkpoint / "adapter")
            if trial.trouble is not None:
                return
            self._kept.keep_carried(trial.name, checkpoint)
        adapter = None
        if report.row is not None and not last and trial.name != BASE_TRIAL:
            adapter = self._kept.task_adapter(trial.name, report.task_index + 1)
        self._shared.note_learnt(trial.name, report)
        self.ledger.record(StageReported(trial.name, report, *(adapter or (None, None))))
        if self._racing is not None:
            self._racing.look(trial, report)
            if trial.name == BASE_TRIAL:  # nothing could be decided before
                self._racing.look_again(self.trials[name] for name in self.admission.running)

    def stops(self, name: str) -> bool:
        """Whether a running trial is to be stopped: by what it has reported, or on request."""
        trial = self.trials[name]
        return trial.stop is not None or trial.asked is not None

    def ended(self, name: str, error: bool) -> None:
        """A trial is over.

        Args:
            name: The trial.
            error: Whether its process died.
        """
        self.admission.release(name)
        trial = self.trials[name]
        if error and trial.failure is None:
            reason = "the trial's process ended unexpectedly (out of memory, or killed)"
            self._failed(trial, Failed(reason))
        self._endings.finish(name)

    def tidy(self) -> None:
        """Remove what members of the pool have saved of trials that had ended meanwhile."""
        self._kept.remove_checkpoints(t.name for t in self.trials.values() if t.over)
