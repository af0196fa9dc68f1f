"""What the journal says of a sweep, for whatever shows it.

Everything here is a function of journal lines, and needs neither terminal nor browser. What an
older version did not write is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import ValidationError

from orchestrator.measures.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.records.event import Line
from orchestrator.records.event_fold import EventFold, read_without_series
from orchestrator.records.event_values import Finalist, TaskScores
from orchestrator.records.events import SweepEnded, TestRead, read_event
from orchestrator.records.readings import reading_words
from orchestrator.records.scores import flat, number
from orchestrator.records.stage_report import DONE
from orchestrator.records.trial_record import BASE_TRIAL, Leading, TrialRecord, compared_with_base
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.validation import ExperimentError

Method: TypeAlias = tuple[str | None, str | None, str | None]
_METHOD = ("preset", "adapter.kind", "retention.kind")


@dataclass
class SweepState(EventFold):
    """What the journal says of a sweep: what its events set, and what follows from that."""

    _joint: dict[str, bool] = field(default_factory=dict[str, bool])
    _methods: dict[str, Method] = field(
        default_factory=dict[str, "Method"], compare=False, repr=False
    )
    _read: tuple[dict[str, Any], Experiment | None] | None = field(
        default=None, compare=False, repr=False
    )
    """The experiment's document as it was read last, and the experiment."""

    @classmethod
    def of(cls, lines: Iterable[Line], *, whole: bool = True) -> SweepState:
        """The state of a whole journal.

        Args:
            lines: The journal's.
            whole: Whether reports are kept whole.

        Returns:
            What they say together.
        """
        state, read = cls(whole), read_event if whole else read_without_series
        for line in lines:
            state.take(read(line))
        return state

    @property
    def base_sha256(self) -> str | None:
        """The hash of the base model's weights; None where it was not recorded."""
        return self.provenance.get("base", {}).get("sha256")

    @property
    def ended(self) -> bool:
        """Whether there is a verdict that stands."""
        return self.verdict is not None

    @property
    def front(self) -> list[str]:
        """The trials on the front, once the sweep has ended."""
        return self._decided.front

    @property
    def champion(self) -> str | None:
        """The trial that won; None before the sweep has ended, or where there is none."""
        return self._decided.champion

    @property
    def reason(self) -> str:
        """Why that one won, or none did."""
        return self._decided.reason

    @property
    def finalists(self) -> tuple[Finalist, ...]:
        """The trials that were repeated with fresh seeds, see `SweepEnded.finalists`."""
        return self._decided.finalists

    @property
    def runner_up(self) -> str | None:
        """The best of the trials that did not win."""
        return self._decided.runner_up

    @property
    def runner_up_interval(self) -> list[float] | None:
        """Of the champion's mean score minus the runner-up's."""
        return self._decided.runner_up_interval

    @property
    def compared(self) -> int | None:
        """For the choice among how many trials the verdict's intervals allow; None: they do not."""
        return self._decided.compared

    @property
    def _decided(self) -> SweepEnded:
        return self.verdict or SweepEnded()

    @property
    def reading_due(self) -> bool:
        """Whether the verdict has a champion whose test scores were never asked for.

        False, too, where it was tried and could not be done.
        """
        verdict = self.verdict
        if verdict is None or verdict.champion is None:
            return False
        pair = (verdict.champion, verdict.runner_up)
        return all((asked.champion, asked.runner_up) != pair for asked in self.readings)

    @property
    def trials(self) -> list[TrialRecord]:
        """The trials in the order of their proposal, without the untouched base."""
        return [trial for name, trial in self.everything.items() if name != BASE_TRIAL]

    @property
    def searched(self) -> list[TrialRecord]:
        """The trials without repetitions of another with a fresh seed, and without comparisons."""
        return [trial for trial in self.trials if trial.is_searched]

    @property
    def finished(self) -> list[TrialRecord]:
        """The trials that ended, however they ended."""
        return [trial for trial in self.trials if trial.over]

    @property
    def total(self) -> int:
        """How many trials the sweep is to hold."""
        return self.planned(len(self.trials), len(self.searched))

    def planned(self, trials: int, searched: int) -> int:
        """How many trials the sweep is to hold.

        Args:
            trials: How many it has.
            searched: How many of them repeat no other and are no comparison.

        Returns:
            At least as many as it has.
        """
        search = self.experiment.get("search")
        if self.kind == "run" or not search:
            extends = self.experiment.get("extends") or {"compared": False}
            return max(3 if extends.get("compared", True) else 1, trials)
        repeated = trials - searched
        parsed = self._parsed
        open_ended = parsed is not None and parsed.search is not None and parsed.search.open_ended
        if self.ended or parsed is None or open_ended:
            return max(int(search.get("trials") or 0) if parsed is None else 0, searched) + repeated
        wanted = parsed.repeated_trials + parsed.compared_trials
        return max(parsed.searched_trials, searched) + max(wanted, repeated)

    @property
    def chooses(self) -> bool:
        """Whether its trials are chosen among."""
        if self.kind == "extension":
            return bool(self.experiment.get("search"))
        return self.kind not in {"run", "reproduction"}

    @property
    def tasks(self) -> list[str]:
        """The task sequence."""
        return list(self.experiment.get("tasks", []))

    @property
    def best(self) -> TrialRecord | None:
        """The champion, or else the finished trial with the largest gain, controls left out."""
        if self.champion is not None:
            return self.trial(self.champion)
        measured = [
            trial
            for trial in self.finished
            if trial.is_searched
            and not math.isnan(trial.searched_measure("gain"))
            and not self._is_joint(trial)
        ]
        return max(measured, key=lambda t: t.searched_measure("gain"), default=None)

    @property
    def reading(self) -> TestRead | None:
        """The reading of the test data that shows the present champion, None before there is one.

        Of several the first: later ones of the same champion score another runner-up.
        """
        return self.reading_of(self.champion) if self.champion is not None else None

    @property
    def next_reading(self) -> int:
        """The number of the next reading of the test data, from 1."""
        return 1 + sum(bool(reading.reading) for reading in self.readings)

    def reading_of(self, trial: str) -> TestRead | None:
        """The first reading of the test data that shows a trial, for whatever reason."""
        return next((r for r in self.readings if r.reading and r.champion == trial), None)

    def _is_joint(self, trial: TrialRecord) -> bool:
        """Whether a trial learns all tasks at once: a control, which is never champion."""
        if trial.name not in self._joint:
            self._joint[trial.name] = self.settings(trial).get("method.sequence") == "joint"
        return self._joint[trial.name]

    @property
    def leading(self) -> Leading | None:
        """The unfinished trial that has come furthest; of several the one that scores best there.

        Before a trial has ended, that is all that can be compared.
        """
        found: list[tuple[tuple[int, float, float], Leading]] = []
        for trial in self.trials:
            reports = [r for r in trial.reports if r.task_index >= 0]
            if trial.state != "RUNNING" or not reports:
                continue
            last = reports[-1]
            zero_shot = self._base_row(last.examples) or [NOT_MEASURED] * len(self.tasks)
            own, other = compared_with_base(last, self.tasks, zero_shot)
            merit = (last.task_index, last.fraction, own)
            if not math.isnan(own):
                found.append((merit, Leading(trial.name, last, own, own - other)))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    @property
    def test_words(self) -> str:
        """What the test data say of an ended sweep's champion, or why nothing; a sentence."""
        if self.champion is None:
            return "The test examples were not read: there is no champion to read them for."
        if self.reading is not None:
            return reading_words(self.reading)
        tried = [r.unread for r in self.readings if r.champion == self.champion]
        if tried:
            why = "; ".join(f"{name}: {reason}" for name, reason in tried[-1].items())
            return f"The test examples could not be scored: {why.rstrip('.')}."
        return (
            "The test examples have not been read; `orchestrate sweep` with the same file does it."
        )

    def order_of(self, trial: TrialRecord) -> list[str]:
        """The tasks in the order in which a trial learnt them."""
        return list(trial.overrides.get("tasks") or self.tasks)

    def settings(self, trial: TrialRecord) -> dict[str, Any]:
        """The trial's whole method and training, its overrides applied."""
        if trial.name == BASE_TRIAL:
            return {}
        parsed = self._parsed
        if parsed is None:
            return dict(trial.overrides)
        try:
            document = parsed.with_overrides(trial.overrides).model_dump(mode="json")
        except ExperimentError:  # written by a version with other fields
            return dict(trial.overrides)
        parts = ("method", "training", "resources")
        return flat({part: document[part] for part in parts})

    def method(self, trial: TrialRecord) -> Method:
        """By which method a trial learns, worked out once for each.

        A report asks it of every trial seven times, and settings take a quarter of a millisecond.

        Args:
            trial: One of the sweep's.

        Returns:
            Its preset, if it has one, and the kinds of its adapter and retention, if known.
        """
        found = self._methods.get(trial.name)
        if found is None:
            held = self.settings(trial)
            preset, *kinds = (held.get(f"method.{path}") for path in _METHOD)
            adapter, retention = (None if kind is None else str(kind) for kind in kinds)
            found = (str(preset) if preset else None, adapter, retention)
            self._methods[trial.name] = found
        return found

    @property
    def _parsed(self) -> Experiment | None:
        """The experiment; None where a version with other fields wrote it."""
        # A continued sweep has another document; the same is not read again for every trial.
        if self._read is None or self._read[0] is not self.experiment:
            self._read = (self.experiment, _experiment(self.experiment))
        return self._read[1]

    def control_scores(self, control: str) -> list[float]:
        """A control's score on each task, NaN where it was not measured.

        Args:
            control: A key of `CONTROLS`, or `chance`.

        Returns:
            One score per task.
        """
        base = self.everything.get(BASE_TRIAL)
        if control == "zero_shot":
            return (base.base_row if base else None) or [NOT_MEASURED] * len(self.tasks)
        if control != "head_only":
            return [number(self.controls.get(task, {}).get(control)) for task in self.tasks]
        found: dict[str, Any] = {}
        for report in base.reports if base else []:
            found |= report.head_only or {}
        return [_first_number(found.get(task)) for task in self.tasks]

    @property
    def searched_settings(self) -> list[str]:
        """Dotted paths that the search or any trial sets, in the order of the file."""
        space = (self.experiment.get("search") or {}).get("space") or {}
        paths = [*space, *(path for trial in self.searched for path in trial.overrides)]
        return list(dict.fromkeys(paths))

    def versions_of(self, trial: TrialRecord) -> dict[str, str]:
        """With which versions a trial was made last, by what they are of; see `versions`."""
        return trial.versions[-1] if trial.versions else self.versions

    def matrix(self, trial: TrialRecord) -> AccuracyMatrix | None:
        """The accuracy matrix as far as it was measured, None when no row was.

        Args:
            trial: One of the sweep's.

        Returns:
            Scores, all of a task on the same examples: what was scored later on more of them is
            part of it once the whole matrix is.
        """
        first = trial.base_row or self._base_row(trial.examples)
        learnt = trial.learnt_rows
        if not learnt and first is None:
            return None
        empty = [NOT_MEASURED] * len(self.tasks)
        count = max(learnt, default=-1) + 1
        rows = [first or empty, *(learnt.get(index, empty) for index in range(count))]
        if trial.whole_examples is not None or not self.is_screened(trial):
            rows = [self._with_later(trial, i, row) for i, row in enumerate(rows)]
        return AccuracyMatrix(tuple(self.tasks), tuple(tuple(row) for row in rows))

    def examples(self, trial: TrialRecord) -> dict[str, int]:
        """By task, how many validation examples stand behind a trial's matrix; {} if unknown."""
        base = self.everything.get(BASE_TRIAL)
        every = base.examples if base is not None else None
        return {**(every or {}), **(trial.examples or {})}

    def is_screened(self, trial: TrialRecord) -> bool:
        """Whether a trial was scored on fewer examples than the untouched base."""
        base = self.everything.get(BASE_TRIAL)
        every = (base.examples if base is not None else None) or {}
        return any(count < every.get(task, count) for task, count in (trial.examples or {}).items())

    def other_scores(self, trial: TrialRecord) -> dict[str, dict[int, TaskScores]]:
        """What a trial scores on tasks that the sweep does not have.

        Args:
            trial: One of the sweep's, or the untouched base.

        Returns:
            By task and by how many tasks it had learnt; 0 is the untouched base.
        """
        base = self.everything.get(BASE_TRIAL)
        found: dict[str, dict[int, TaskScores]] = {}
        for task in self.other_tasks:
            cells = {n: scores for (n, name), scores in trial.later.items() if name == task}
            if cells and base is not None and (0, task) in base.later:
                cells[0] = base.later[(0, task)]
            if cells:
                found[task] = cells
        return found

    def _with_later(self, trial: TrialRecord, learnt: int, row: list[float]) -> list[float]:
        return [
            trial.later[(learnt, task)].value if (learnt, task) in trial.later else score
            for task, score in zip(self.tasks, row, strict=True)
        ]

    def _base_row(self, counts: Mapping[str, int] | None) -> list[float] | None:
        """What the untouched base scores on the first examples of each task."""
        base = self.everything.get(BASE_TRIAL)
        report = base.by_stage.get((-1, DONE)) if base is not None else None
        if report is None or not report.row:
            return None
        return list(report.on_first(self.tasks, counts).row or ())


def _experiment(document: Mapping[str, Any]) -> Experiment | None:
    try:
        return Experiment.model_validate(document)
    except ValidationError:  # written by a version with other fields
        return None


def _first_number(readings: Any) -> float:
    """What a control read: a number, or the first of several by the metric's name."""
    if isinstance(readings, Mapping):
        readings = next(iter(readings.values()), None)
    return number(readings)
