"""What is known of a running sweep: its journal, what is folded from it, and each trial's part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.data.prepared import PreparedData
from orchestrator.records.event import Event
from orchestrator.records.event_fold import without_series
from orchestrator.records.event_values import TaskScores
from orchestrator.records.events import (
    CellsScored,
    StageReported,
    TrialEnded,
    TrialProposed,
    read_event,
)
from orchestrator.records.journal import Journal
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.sections import ScoringSpec
from orchestrator.spec.space.search_space import EarlyStopping
from orchestrator.sweep.baselines import Controls, Inherited
from orchestrator.sweep.deciding.card_writer import CardWriter
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.sweep.protocols import Observer


class Ledger:
    """Everything that is known of a running sweep; `record` is the one way to add to it."""

    def __init__(
        self,
        loaded: LoadedExperiment,
        journal: Journal,
        observer: Observer,
        data: PreparedData,
        state: SweepState | None = None,
    ) -> None:
        """Begin with what the journal says.

        Args:
            loaded: The experiment and its tasks.
            journal: The sweep's, open for writing.
            observer: Receives what is recorded.
            data: The tokenised data.
            state: What all of its lines say, without series; None: they are read now.
        """
        self.loaded = loaded
        self.experiment = loaded.experiment
        self.journal = journal
        self.folder = SweepFolder(journal.folder)
        self.observer = observer
        self.data = data
        self.state = SweepState.of(journal.lines, whole=False) if state is None else state
        self.trials = {name: Trial(record) for name, record in self.state.everything.items()}
        self.cards = CardWriter(self.folder, self.state)
        self._experiments: dict[str, Experiment] = {}
        """Of the trials that have not ended; of others as far as they were asked for since."""
        self._searched: list[Trial] = []
        self.asked_for = 0
        """How many trials of the search people have asked for."""
        for trial in self.trials.values():
            self._sort(trial)

    def _sort(self, trial: Trial) -> None:
        """Know a trial that was proposed among those of the search, if it is one: for good."""
        if trial.name != BASE_TRIAL and trial.record.is_searched:
            self._searched.append(trial)
            self.asked_for += trial.record.is_asked_for

    def record(self, event: Event) -> None:
        """Journal what happens, take it in, have its cards written, then tell the observer."""
        # What is left out is read from the journal; the rest is kept once, by all who keep it.
        written = without_series(self.journal.append(event))
        self.state.take(written)
        if isinstance(written, TrialProposed):
            trial = self.trials[written.trial] = Trial(self.state.trial(written.trial))
            self._sort(trial)
        self.cards.take(written)
        self.observer.event(written)
        if isinstance(written, TrialEnded):  # an experiment is larger than all else of a trial
            self._experiments.pop(written.trial, None)

    @property
    def racing(self) -> EarlyStopping | None:
        """How trials of the search are stopped early; None: they are not."""
        search = self.experiment.search
        return None if search is None else search.early_stopping

    # ------------------------------------------------------------------------ of single trials

    def experiment_of(self, name: str) -> Experiment:
        """The sweep's experiment with a trial's overrides, validated once while it is at work."""
        if name not in self._experiments:
            trial = self.trials[name]
            own = self.experiment.with_overrides(trial.overrides)
            # A repetition is judged on all examples, by what the measures need.
            screened = trial.of is None or own.scoring == "full"
            scoring = own.scoring if screened else ScoringSpec(screen="all")
            raced = own.raced or (self.racing is not None and trial.record.is_searched)
            self._experiments[name] = own.model_copy(update={"scoring": scoring, "raced": raced})
        return self._experiments[name]

    def learns_jointly(self, name: str) -> bool:
        """Whether a trial learns all tasks at once: a control, for which no trial can be chosen."""
        # Asked of all trials at the end: to validate ten thousand takes half a minute.
        if not {"method", "method.preset", "method.sequence"} & self.trials[name].overrides.keys():
            return self.experiment.method.sequence == "joint"
        return self.experiment_of(name).method.sequence == "joint"

    def in_order_of_sweep(self, name: str, report: StageReport) -> StageReport:
        """A report whose row has the sweep's order of tasks, where a trial has one of its own."""
        own, tasks = self.experiment_of(name).tasks, self.experiment.tasks
        if report.row is None or own == tasks:
            return report
        by_task = dict(zip(own, report.row, strict=True))
        return replace(report, row=tuple(by_task[task] for task in tasks))

    def seed_of(self, trial: Trial) -> int:
        """The seed that a trial is trained with."""
        return int(trial.overrides.get("training.seed", self.experiment.training.seed))

    def last_report(self, trial: Trial) -> StageReport | None:
        """The report after the last task, which makes a trial whole; None before."""
        return trial.last_report(len(self.experiment.tasks))

    def cells(self, name: str) -> dict[tuple[int, str], TaskScores]:
        """Everything that a trial was scored on after a task, read from the journal.

        Args:
            name: The trial.

        Returns:
            By how many tasks it had learnt and by task, probes not among them until they are scored
            later. What was scored again, on more examples, stands in the place of the first.
        """
        record, everything = self.trials[name].record, self.every_example()
        found: dict[tuple[int, str], TaskScores] = {}
        for (index, _), number in record.lines.items():
            report = self._report_in(number)
            if report.row is None or index < 0:
                continue
            counts = everything if report.examples is None else report.examples
            for task, score in zip(self.experiment.tasks, report.row, strict=True):
                if math.isfinite(score):
                    found[(index + 1, task)] = TaskScores(
                        score,
                        counts.get(task, 0),
                        report.metrics.get(task, {}),
                        tuple((report.per_example or {}).get(task, ())),
                    )
        for number in record.later_lines:
            event = read_event(self.journal.lines[number])
            assert isinstance(event, CellsScored), "what was scored later is such an event"
            found |= {(event.learnt, task): scores for task, scores in event.scores.items()}
        return found

    def every_example(self) -> dict[str, int]:
        """By task, how many validation examples the untouched base was scored on."""
        base = self.base_report()
        if base is None:
            return {}
        return base.examples or {t: len(scores) for t, scores in (base.per_example or {}).items()}

    def whole_reports(self, trial: Trial) -> Iterator[StageReport]:
        """The reports of a trial with all that grows with steps and examples, oldest first."""
        yield from map(self._report_in, list(trial.record.lines.values()))

    def _report_in(self, number: int) -> StageReport:
        """The whole report in a line of the journal."""
        event = read_event(self.journal.lines[number])
        assert isinstance(event, StageReported), "a report stands in such an event"
        return event.report

    # ---------------------------------------------------------------------------- of all trials

    def searched(self) -> Sequence[Trial]:
        """The trials of the search: neither the base, repetitions of a finalist nor comparisons."""
        return self._searched

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

    def controls(self, counts: Mapping[str, int] | None = None) -> Controls:
        """What trials are compared with, once row 0 is known.

        Args:
            counts: By task, on how many of its first validation examples; None: on all.

        Returns:
            The controls.

        Raises:
            AssertionError: If it is not.
        """
        base = self.base_report()
        if base is None:
            raise AssertionError("controls are read only once row 0 is known")
        tasks = [self.data.tasks[name] for name in self.experiment.tasks]
        extends, inherited = self.experiment.extends, self.inherited_report()
        return Controls(
            tasks, base, counts=counts,
            inherited=Inherited(extends.as_it_was, inherited) if extends and inherited else None,
        )  # fmt: skip

    def inherited_report(self) -> StageReport | None:
        """What the trial that this sweep goes on from scores on all tasks, as it was.

        Returns:
            Its report, read from the journal; None before the first trial has scored it, and where
            trials begin with nothing.
        """
        last = (self.experiment.inherited - 1, DONE)
        for trial in self.searched() if self.experiment.inherited else ():
            if last in trial.record.lines:
                return self._report_in(trial.record.lines[last])
        return None

    def screened(self) -> dict[str, int]:
        """By task, on how many of its examples trials of the search are compared."""
        return {
            name: count
            if self.experiment.screen is None or self.data.tasks[name].is_language_modelling
            else min(count, self.experiment.screen)
            for name, count in self.every_example().items()
        }

    def row_0(self) -> tuple[float | None, ...] | None:
        """What trials are compared with while they run, by task; None until it is measured."""
        if self.trials[BASE_TRIAL].state != "COMPLETE":
            return None
        row = self.controls(self.screened()).reference_row
        return tuple(v if math.isfinite(v) else None for v in row)
