"""What is known of a running sweep: its journal, what is folded from it, and each trial's part."""

from __future__ import annotations

import math

from orchestrator.data.prepared import PreparedData
from orchestrator.records.event import Event
from orchestrator.records.events import TrialProposed
from orchestrator.records.journal import Journal
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.sweep.baselines import Controls
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.sweep.protocols import Observer


class Ledger:
    """Everything that is known of a running sweep; `record` is the one way to add to it."""

    def __init__(
        self, loaded: LoadedExperiment, journal: Journal, observer: Observer, data: PreparedData
    ) -> None:
        """Read what the journal says.

        Args:
            loaded: The experiment and its tasks.
            journal: The sweep's, open for writing.
            observer: Receives what is recorded.
            data: The tokenised data.
        """
        self.loaded = loaded
        self.experiment = loaded.experiment
        self.journal = journal
        self.folder = SweepFolder(journal.folder)
        self.observer = observer
        self.data = data
        self.state = SweepState.of(journal.lines, whole=False)
        self.trials = {name: Trial(record) for name, record in self.state.everything.items()}
        self._experiments: dict[str, Experiment] = {}

    def record(self, event: Event) -> None:
        """Journal what happens, take it in, then tell the observer."""
        written = self.journal.append(event)
        self.state.take(written)
        if isinstance(written, TrialProposed):
            self.trials[written.trial] = Trial(self.state.trial(written.trial))
        self.observer.event(written)

    # ------------------------------------------------------------------------ of single trials

    def experiment_of(self, name: str) -> Experiment:
        """The sweep's experiment with a trial's overrides, validated once."""
        if name not in self._experiments:
            overrides = self.trials[name].overrides
            self._experiments[name] = self.experiment.with_overrides(overrides)
        return self._experiments[name]

    def learns_jointly(self, name: str) -> bool:
        """Whether a trial learns all tasks at once: a control, for which no trial can be chosen."""
        return self.experiment_of(name).method.sequence == "joint"

    def seed_of(self, trial: Trial) -> int:
        """The seed that a trial is trained with."""
        return int(trial.overrides.get("training.seed", self.experiment.training.seed))

    def last_report(self, trial: Trial) -> StageReport | None:
        """The report after the last task, which makes a trial whole; None before."""
        return trial.last_report(len(self.experiment.tasks))

    def examples(self, name: str) -> dict[str, tuple[float, ...]] | None:
        """What a trial scores on each validation example, read from the journal.

        Args:
            name: The trial.

        Returns:
            By task; None where it has no last report, or that holds none.
        """
        trial = self.trials[name]
        number = trial.record.lines.get(trial.last_stage(len(self.experiment.tasks)))
        if number is None:
            return None
        return StageReport.from_document(self.journal.lines[number]["report"]).per_example

    # ---------------------------------------------------------------------------- of all trials

    def searched(self) -> list[Trial]:
        """The trials of the search: neither the base nor repetitions of a finalist."""
        return [t for t in self.trials.values() if t.name != BASE_TRIAL and t.of is None]

    def searched_seeds(self) -> set[int]:
        """The seeds of all trials of the search, whatever became of them."""
        return {self.seed_of(trial) for trial in self.searched()}

    def eligible(self) -> list[Trial]:
        """The searched trials that may become champion: whole, and no controls."""
        return [
            trial
            for trial in self.searched()
            if trial.state == "COMPLETE"
            and trial.measures is not None
            and not self.learns_jointly(trial.name)
        ]

    # ------------------------------------------------------------------------------ of the base

    def base_report(self) -> StageReport | None:
        """What the untouched base scores; None before it is measured."""
        base = self.trials.get(BASE_TRIAL)
        return None if base is None else self.last_report(base)

    def controls(self) -> Controls:
        """What trials are compared with, once row 0 is known."""
        base = self.base_report()
        if base is None:
            raise AssertionError("controls are read only once row 0 is known")
        return Controls([self.data.tasks[name] for name in self.experiment.tasks], base)

    def row_0(self) -> tuple[float | None, ...] | None:
        """What trials are compared with, by task; None until it is measured."""
        if self.trials[BASE_TRIAL].state != "COMPLETE":
            return None
        return tuple(v if math.isfinite(v) else None for v in self.controls().reference_row)
