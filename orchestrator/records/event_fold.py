"""The fold of a sweep's events: what each of them sets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from orchestrator.records.event import Event, Line
from orchestrator.records.events import (
    BudgetSpent,
    CellsScored,
    ChampionRegistered,
    ExtensionMeasured,
    FaultSurvived,
    JournalRepaired,
    RequestTaken,
    SetAside,
    StageReported,
    SweepContinued,
    SweepEnded,
    SweepOpened,
    TestRead,
    TrialEnded,
    TrialMeasured,
    TrialProposed,
    TrialStarted,
    read_event,
)
from orchestrator.records.journal_facts import identity_of, versions
from orchestrator.records.stage_report import SERIES
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord


def without_series(event: Event) -> Event:
    """An event without what grows with steps and examples, those of the base excepted.

    Args:
        event: Any.

    Returns:
        The same where there is nothing to leave out, so that several who keep it share it.
    """
    if not isinstance(event, StageReported):
        return event
    report = event.report.without_series(examples=event.trial == BASE_TRIAL)
    return event if report is event.report else replace(event, report=report)


def read_without_series(line: Line) -> Event:
    """The event of a line as `without_series` leaves it, in half the time.

    What is left out is not looked at: whoever needs it reads the line whole, with `read_event`.

    Args:
        line: A journal's.

    Returns:
        The event.

    Raises:
        JournalError: If something is missing that no version has left out.
    """
    report = line.get("report")
    if (
        line["event"] == StageReported.name
        and type(report) is dict
        and line.get("trial") != BASE_TRIAL
    ):
        said = cast("dict[str, Any]", report)
        short = {name: value for name, value in said.items() if name not in SERIES}
        return read_event({**line, "report": short})
    return without_series(read_event(line))


@dataclass
class EventFold:
    """What the events of a sweep set; `SweepState` adds what follows from it.

    What an older version did not write is empty.
    """

    whole: bool = True
    """Whether reports are kept whole; otherwise without what grows with steps and examples, the
    untouched base's examples excepted: the journal holds the rest."""
    name: str = ""
    kind: str = "sweep"
    sweep_id: str = ""
    """What the work of its trials is sealed with; empty before it has one."""
    identity: str = ""
    """What no other sweep shares, see `identity_of`: by it MLflow knows the sweep."""
    unsealed: frozenset[str] = frozenset()
    """The trials that were begun before the sweep had an identity."""
    experiment: dict[str, Any] = field(default_factory=dict[str, Any])
    controls: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    task_files: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """The task files of tasks and probes, by name."""
    yaml: str = ""
    """The experiment file as it was written."""
    origin: str = ""
    precision: dict[str, str] | None = None
    """What `training.precision: auto` stands for, see `SweepOpened`."""
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    """What was recorded when it was opened."""
    base: dict[str, Any] = field(default_factory=dict[str, Any])
    """What was recorded of the base at its last start: where it is, and its hashes."""
    opened: float | None = None
    changed: float | None = None
    verdict: SweepEnded | None = None
    """The last one, unless trials went on after it."""
    last_verdict: SweepEnded | None = None
    """The last one, whatever came after it."""
    extension: ExtensionMeasured | None = None
    """What was gained and lost since the trial that it goes on from, if it does."""
    readings: list[TestRead] = field(default_factory=list[TestRead])
    """The readings of the test data, oldest first."""
    model: str | None = None
    """Name and version in the model registry, once the champion is registered."""
    version: str | None = None
    other_tasks: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """The task files of tasks that trials were scored on later, though the sweep has none such."""
    everything: dict[str, TrialRecord] = field(default_factory=dict[str, TrialRecord])
    """Every trial by name, the untouched base included."""
    spent: BudgetSpent = field(default_factory=BudgetSpent)
    """What it has spent, as far as it has a budget."""
    faults: list[FaultSurvived | JournalRepaired | SetAside] = field(
        default_factory=list["FaultSurvived | JournalRepaired | SetAside"]
    )
    """What went wrong and was survived, oldest first."""
    requests: dict[str, RequestTaken] = field(default_factory=dict[str, RequestTaken])
    """What people have asked of the sweep, by request, as far as it was taken up."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    """Those of the last start of the sweep, see `journal_facts.versions`."""

    def take(self, event: Event) -> None:
        """Take the next event; one of a newer version says nothing here."""
        self.changed = event.time
        event = event if self.whole else without_series(event)
        match event:
            case SweepOpened() | SweepContinued():
                self._take_session(event)
            case TrialProposed() | TrialStarted() | StageReported() | TrialEnded():
                self._take_of_trial(event)
            case SweepEnded():
                self.verdict = self.last_verdict = event
            case CellsScored() | TrialMeasured():
                self._take_later(event)
            case BudgetSpent():
                self.spent = event
            case ExtensionMeasured():
                self.extension = event
            case FaultSurvived() | JournalRepaired() | SetAside():
                self.faults.append(event)
            case RequestTaken():
                self.requests[event.request] = event
            case TestRead() | ChampionRegistered():
                self._take_of_champion(event)
            case _:
                pass

    def _take_of_champion(self, event: TestRead | ChampionRegistered) -> None:
        if isinstance(event, TestRead):
            self.readings.append(event)
        else:
            self.model, self.version = event.model, str(event.version)

    def _take_session(self, event: SweepOpened | SweepContinued) -> None:
        if isinstance(event, SweepOpened):
            self._take_opening(event)
        else:
            self._take_continuation(event)

    def _take_opening(self, event: SweepOpened) -> None:
        self.name, self.kind, self.sweep_id = event.sweep, event.kind, event.sweep_id
        self.experiment, self.controls = event.experiment, event.controls
        self.precision = event.precision
        self.origin, self.provenance = event.origin, event.provenance
        self.task_files, self.yaml = event.tasks, event.yaml
        self.opened, self.identity = event.time, identity_of(event)
        self.base = self.provenance.get("base", {})
        self.versions = versions(self.provenance)

    def _take_continuation(self, event: SweepContinued) -> None:
        # Earlier versions wrote that of the code alone.
        self.versions = self.versions | versions(event.to_line())
        if event.sweep_id:
            self.sweep_id, self.unsealed = event.sweep_id, frozenset(self.everything)
        self.base = event.base or self.base
        search = self.experiment.get("search")
        if search:
            bounded = event.trials or event.time_budget or event.compute_budget
            now = {
                "time_budget": event.time_budget,
                "compute_budget": event.compute_budget,
                "trials": event.trials if bounded else search.get("trials"),
            }
            self.experiment = {**self.experiment, "search": {**search, **now}}
        for name in event.retried:
            self.verdict = None
            self.trial(name).start_over()

    def _take_of_trial(
        self, event: TrialProposed | TrialStarted | StageReported | TrialEnded
    ) -> None:
        self.verdict = None
        trial = self.trial(event.trial)
        match event:
            case TrialProposed():
                trial.overrides, trial.by, trial.of = event.overrides, str(event.by), event.of
            case TrialStarted():
                self._take_start(trial, event)
            case StageReported():
                trial.take_report(event.report, event.n)
                trial.told = event.time
                if event.adapter and event.adapter_sha256:
                    kept = (event.adapter, event.adapter_sha256)
                    trial.task_adapters[event.report.task_index + 1] = kept
            case TrialEnded():
                trial.state, trial.reason = event.state, event.reason
                trial.measures, trial.gain_interval = event.measures or {}, event.gain_interval
                trial.searched_measures = trial.measures
                trial.intervals = event.intervals or {}
                trial.adapter, trial.log = event.adapter, event.log
                trial.adapter_sha256, trial.stop = event.adapter_sha256, event.stop
                trial.carried, trial.carried_sha256 = event.carried, event.carried_sha256
                trial.carried_bytes = event.carried_bytes or 0
                trial.ended = event.time

    def _take_start(self, trial: TrialRecord, event: TrialStarted) -> None:
        trial.state, trial.started, trial.attempts = "RUNNING", event.time, event.attempt
        trial.told = event.time
        # One value for all trials that were made with the same.
        same = not event.versions or event.versions == self.versions
        made_with = self.versions if same else event.versions
        if made_with and made_with not in trial.versions[-1:]:
            trial.versions = [*trial.versions, made_with]

    def _take_later(self, event: CellsScored | TrialMeasured) -> None:
        if isinstance(event, TrialMeasured):
            self.trial(event.trial).take_measures(event)
            return
        self.trial(event.trial).take_later(event, examples=self.whole)
        self.other_tasks |= event.tasks or {}

    def trial(self, name: str) -> TrialRecord:
        """The trial of that name, made when it is new."""
        found = self.everything.get(name)
        if found is None:
            found = self.everything[name] = TrialRecord(name)
        return found
