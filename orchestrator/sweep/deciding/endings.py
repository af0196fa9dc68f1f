"""How trials end: complete with their measures, failed, or stopped."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from orchestrator.loop.progress_file import ProgressFile
from orchestrator.measures.objectives import needs_order
from orchestrator.records.carried_folder import carried_bytes
from orchestrator.records.event_values import EarlyStop
from orchestrator.records.events import TrialEnded
from orchestrator.records.stage_report import StageReport
from orchestrator.records.trial_record import BASE_TRIAL, COMPARISON
from orchestrator.sweep.deciding.admission import Admission
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.measuring import Measured, Measuring, intervals_of
from orchestrator.sweep.deciding.proposals import Proposals
from orchestrator.sweep.deciding.racing import Racing
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.system.seals import content_hash, file_hashes

ENOUGH_FAILURES = 3
"""A sweep whose first trials have all failed, this many of them, is stopped."""


class Endings:
    """Ends trials, and knows which have failed in this session."""

    def __init__(
        self,
        ledger: Ledger,
        proposals: Proposals,
        admission: Admission,
        kept: KeptWork,
        budget: Budget,
        base_measured: Callable[[StageReport], None] | None = None,
        racing: Racing | None = None,
    ) -> None:
        """Begin.

        Args:
            ledger: The sweep's.
            proposals: Learns what each trial scored.
            admission: Knows which trials wait, and whether a scheduler may stop them.
            kept: Their adapters.
            budget: What the sweep may spend.
            base_measured: Receives row 0 once it is known.
            racing: Knows why trials were stopped early; None: none is.
        """
        self._racing = racing
        self._ledger, self._proposals = ledger, proposals
        self._admission, self._kept, self._budget = admission, kept, budget
        self._measuring = Measuring(ledger)
        self._base_measured = base_measured
        self._failed_now: list[str] = []

    @property
    def given_up(self) -> bool:
        """Whether nothing more is begun: the base, or every trial of this session, has failed.

        A trial that was completed in any session shows that trials can be.
        """
        if BASE_TRIAL in self._failed_now:
            return True
        fine = any(
            trial.state == "COMPLETE" or self._ledger.last_report(trial) is not None
            for trial in self._ledger.trials.values()
            if trial.name != BASE_TRIAL
        )
        return len(self._failed_now) >= ENOUGH_FAILURES and not fine

    def failures_now(self) -> list[Trial]:
        """The trials that failed in this session, in the order in which they did."""
        return [self._ledger.trials[name] for name in self._failed_now]

    def refuse(self, trial: Trial, reason: str) -> None:
        """Fail a trial that cannot be, which says nothing of the others."""
        self._end(trial, "FAILED", f"its settings are impossible together: {reason}")
        self._failed_now.remove(trial.name)

    def finish(self, name: str) -> None:
        """End a trial, now or, when row 0 is still being measured, as soon as it is known."""
        trial = self._ledger.trials[name]
        if trial.over:
            return  # row 0 came between its last report and the word that it is over
        final = self._ledger.last_report(trial)
        if trial.failure is not None or final is None:
            self._end_early(trial)
        elif name == BASE_TRIAL:
            self._finish_base(trial, final)
        elif self._ledger.base_report() is not None:
            self._finish_whole(trial)

    def _finish_base(self, base: Trial, final: StageReport) -> None:
        self._end(base, "COMPLETE", "", self._measuring.on_all(base))
        if self._base_measured is not None:
            self._base_measured(final)
        for other in list(self._ledger.trials.values()):
            whole = self._ledger.last_report(other) is not None
            if not other.over and whole and other.name not in self._admission.waiting:
                self.finish(other.name)

    def _finish_whole(self, trial: Trial) -> None:
        found = self._measuring.searched(trial)
        wanted = set(self._ledger.experiment.objectives)
        if self._ledger.learns_jointly(trial.name):
            wanted -= needs_order()
        if trial.record.by == COMPARISON:
            wanted.clear()  # it is not chosen by them
        bad = [n for n in sorted(wanted) if not math.isfinite(found.measures[n])]
        if bad:
            self._end(trial, "FAILED", f"the objectives {bad} could not be measured")
        else:
            self._end(trial, "COMPLETE", "", found)

    def _end_early(self, trial: Trial) -> None:
        """End a trial that has failed, or was stopped before its last report."""
        if trial.failure is None and trial.asked is not None:
            self._end(trial, "STOPPED", f"stopped by {trial.asked}")
            return
        if trial.failure is None and trial.stop is not None and self._racing is not None:
            found = self._racing.told(trial, trial.stop)
            self._end(trial, "STOPPED", self._racing.words(trial.stop), stop=found)
            return
        if trial.failure is None and self._admission.scheduled and trial.reports:
            self._end(trial, "STOPPED", "stopped by the scheduler")
            return
        if trial.failure is None and self._budget.cut:
            self._end(trial, "STOPPED", "the sweep's budget was spent")
            return
        reason = trial.failure or trial.trouble or "the trial ended before its last report"
        self._end(trial, "FAILED", reason)

    def _end(
        self,
        trial: Trial,
        state: str,
        reason: str,
        measured: Measured | None = None,
        stop: EarlyStop | None = None,
    ) -> None:
        """Record the end of a trial; `measured` only if it is complete."""
        folder = self._ledger.folder
        adapter = folder.adapter(trial.name)
        carried = folder.carried(trial.name)
        has_adapter = state == "COMPLETE" and adapter.is_dir()
        carries = has_adapter and carried.is_dir()
        values = None if measured is None else measured.measures
        gain, intervals = None, None
        if measured is not None and trial.name != BASE_TRIAL:
            gain, intervals = intervals_of(measured)
        self._ledger.record(
            TrialEnded(
                trial=trial.name,
                state=state,
                reason=reason,
                measures=None if values is None else {**values},
                gain_interval=gain,
                intervals=intervals,
                adapter=folder.relative(adapter) if has_adapter else None,
                adapter_sha256=content_hash(file_hashes(adapter)) if has_adapter else None,
                log=trial.log and folder.relative(Path(trial.log)),
                carried=folder.relative(carried) if carries else None,
                carried_sha256=content_hash(file_hashes(carried)) if carries else None,
                carried_bytes=carried_bytes(carried) if carries else None,
                stop=stop,
            )
        )
        self._budget.trial_ended(trial.name, whole=state == "COMPLETE")
        self._proposals.tell(trial, values if stop is None else stop.told)
        ProgressFile(folder.path, trial.name).remove()
        if state == "FAILED":
            self._failed_now.append(trial.name)
        self._kept.remove_checkpoint(trial.name)
