"""Early stopping in a sweep: its trials are entered in a race, and those that lose it are ended."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.records.event_values import EarlyStop
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.space.search_space import EarlyStopping
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.race import Race, RaceRules, Rung, Stop, pessimistic
from orchestrator.sweep.deciding.standings import RungStandings
from orchestrator.sweep.deciding.trial import Trial

RUNGS_IN_A_TASK = 3
"""Two within it, and its end."""


class Racing:
    """Decides after each report whether its trial goes on."""

    def __init__(self, ledger: Ledger, rules: EarlyStopping) -> None:
        """Enter what the journal says of earlier sessions.

        Args:
            ledger: The sweep's.
            rules: How trials race.
        """
        self._ledger = ledger
        experiment = ledger.experiment
        self._standings = RungStandings(ledger)
        self._race = Race(
            RaceRules(
                experiment.objectives,
                experiment.champion.subject_to,
                experiment.champion.maximize,
                rungs=RUNGS_IN_A_TASK * len(experiment.tasks) - 1,
                keep=rules.keep,
                confidence=rules.confidence,
            ),
            self._standings,
        )
        for trial in ledger.searched():
            for stage in trial.record.lines if self._races(trial) else ():
                self._race.passed(trial.name, stage)

    def _races(self, trial: Trial) -> bool:
        """Whether a trial is compared with others: controls and repetitions are not."""
        searched = trial.name != BASE_TRIAL and trial.record.is_searched
        return searched and not self._ledger.learns_jointly(trial.name)

    def look(self, trial: Trial, report: StageReport) -> None:
        """Decide after a report; `trial.stop` says why the trial is to be stopped, if it is."""
        if trial.stop is None and self._races(trial) and not self._is_last(report.stage):
            trial.stop = self._race.look(trial.name, report.stage)

    def look_again(self, trials: Iterable[Trial]) -> None:
        """Decide of some running trials by the last that they reported, once row 0 is known."""
        for trial in trials:
            if trial.reports:
                self.look(trial, list(trial.reports.values())[-1])

    def _is_last(self, rung: Rung) -> bool:
        return rung == (len(self._ledger.experiment.tasks) - 1, DONE)

    def told(self, trial: Trial, stop: Stop) -> EarlyStop:
        """What the journal holds of a stop, with what the searcher is told of it."""
        finished = [
            (then, other.searched_measures or {})
            for other in self._ledger.eligible()
            if stop.rung in other.record.lines
            and (then := self._standings.values(other.name, stop.rung)) is not None
        ]
        now = self._standings.values(trial.name, stop.rung) or {}
        index, fraction = stop.rung
        return EarlyStop(
            self._ledger.experiment.tasks[index],
            fraction,
            stop.measure,
            stop.rival,
            stop.difference,
            stop.interval,
            pessimistic(self._ledger.experiment.objectives, now, finished),
        )

    def words(self, stop: Stop) -> str:
        """Why a trial was stopped, for people."""
        index, fraction = stop.rung
        task = self._ledger.experiment.tasks[index]
        place = f"after {task}" if fraction == DONE else f"after {fraction:.0%} of {task}"
        low, high = stop.interval
        found = f"{stop.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        if stop.rival is None:
            limit = self._ledger.experiment.champion.subject_to[stop.measure]
            return f"{place}, its {stop.measure} is beyond the limit of {limit:g} by {found}"
        return f"{place}, {stop.rival} is ahead in {stop.measure} by {found}, on the same examples"
