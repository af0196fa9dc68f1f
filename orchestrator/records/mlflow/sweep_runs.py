"""The runs that a journal's lines amount to: one for the sweep, one for each trial.

Steps: the *global step* of a report is the number of optimiser steps since the trial began, that is
the steps of the tasks learnt before plus the step within this one; row 0 (the untouched base) has
step 0. `R/<i>/<task>` is logged at step i, and a trial's final measures at step 0.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.records.event import Event
from orchestrator.records.events import (
    CellsScored,
    ChampionRegistered,
    StageReported,
    SweepEnded,
    SweepOpened,
    SweepStopped,
    TestRead,
    TrialEnded,
    TrialMeasured,
    TrialProposed,
    TrialStarted,
)
from orchestrator.records.journal_facts import effective_experiment, identity_of, milliseconds
from orchestrator.records.mlflow.client import ROLE, TAG
from orchestrator.records.mlflow.picture import Picture, flat_parameters, json_text
from orchestrator.records.redaction import redacted, redacted_document
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.spec.reach import refusal
from orchestrator.system.strict_json import without_nan

_STATUS = {"COMPLETE": "FINISHED", "FAILED": "FAILED", "STOPPED": "KILLED"}
_REOPENING = (TrialProposed, TrialStarted, StageReported, TrialEnded)
_OF_TRIALS = {"method", "training", "resources"}
"""What a search may vary: the parameters of trials, and not of the sweep's own run."""
_REPORT_METRICS = ("loss", "tokens", "seconds", "strength")
_STEP_METRICS = {"losses": "step_loss", "learning_rates": "learning_rate"}
"""Series of a report, one value a step, and the metric that each becomes."""


def _role(trial: TrialRecord) -> str:
    """What a trial is for: only those of the search and of no finalist are `trial`."""
    if trial.name == BASE_TRIAL:
        return "untouched base"
    return "trial" if trial.is_searched else ("repetition" if trial.of else "comparison")


def _settings(
    document: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """A trial's whole experiment, and tags for the kind of its method."""
    if refusal(effective_experiment(document, {}), overrides) is not None:
        # An older version proposed what cannot be; it has failed, and no experiment is its own.
        return redacted_document(dict(overrides)), {}
    experiment = effective_experiment(document, overrides)
    adapter, retention = experiment.method.adapter.kind, experiment.method.retention.kind
    method = adapter if retention == "none" else f"{adapter}+{retention}"
    whole = redacted_document(experiment.model_dump(mode="json", exclude={"search"}))
    return whole, {f"{TAG}adapter": adapter, f"{TAG}method": method}


class SweepRuns:
    """The runs of one sweep: what its state is, and what MLflow is to be told of each event."""

    def __init__(self, opening: SweepOpened, folder: Path) -> None:
        self.identity = identity_of(opening)
        self.folder = folder
        self.state = SweepState(whole=False)
        self.registered: ChampionRegistered | None = None
        """What says that the champion of the last verdict was registered."""
        self.touched: set[str | None] = {None}
        """The runs (None: the sweep's own) whose pictures have changed since they were written."""
        own = {k: v for k, v in opening.experiment.items() if k not in _OF_TRIALS}
        self.parent = Picture(
            name=f"{folder.name} (the sweep itself)",
            start=milliseconds(opening.time),
            tags={
                ROLE: "sweep",
                f"{TAG}sweep": self.identity,
                f"{TAG}kind": opening.kind,
                f"{TAG}folder": str(folder),
                f"{TAG}origin": opening.origin,
            },
            parameters=flat_parameters(redacted_document(own)),
        )
        extends = opening.experiment.get("extends")
        if extends:
            self.parent.tags[f"{TAG}extends"] = f"{extends['sweep']}/{extends['trial']}"
        if opening.precision is not None:
            self.parent.tags |= {
                f"{TAG}precision": opening.precision["used"],
                f"{TAG}precision_reason": opening.precision["reason"],
            }
        self._pictures: dict[str, Picture] = {}
        """Those of the trials that have begun."""

    def add(self, event: Event) -> None:
        """Take in one more event; one of a newer version is left out.

        Args:
            event: The next event.
        """
        self.state.take(event)
        self.touched.add(getattr(event, "trial", None))
        if isinstance(event, _REOPENING):
            self.touched.add(None)
            self.parent.reopen()
        match event:
            case SweepOpened():
                self._opened(event)
            case TrialStarted() | StageReported() | TrialEnded() | CellsScored() | TrialMeasured():
                self._add_of_trial(event)
            case SweepEnded():
                self._ended(event)
            case SweepStopped():
                self.parent.close(event, "FAILED")
            case TestRead():
                self._test_read(event)
            case ChampionRegistered():
                self.registered = event
            case _:
                pass

    def _add_of_trial(
        self, event: TrialStarted | StageReported | TrialEnded | CellsScored | TrialMeasured
    ) -> None:
        match event:
            case TrialStarted():
                self._started(event)
            case StageReported():
                self._reported(event)
            case TrialEnded():
                self._trial_ended(event)
            case CellsScored() | TrialMeasured():
                self._scored_later(event)

    def pictures(self, wanted: Collection[str | None]) -> dict[str | None, Picture]:
        """Some of the runs that there should be, the sweep's own (None) first.

        Args:
            wanted: Which; the work done is for these alone.

        Returns:
            The pictures of those that have begun, by name.
        """
        pictures: dict[str | None, Picture] = {None: self.parent} if None in wanted else {}
        for name in sorted(name for name in wanted if name is not None):
            picture = self._pictures.get(name)
            if picture is not None:
                if self.state.trial(name).over:
                    self._draw_matrix(self.state.trial(name), picture)
                pictures[name] = picture
        return pictures

    def everything(self) -> set[str | None]:
        """The name of every trial that was proposed, and None."""
        return {None, *self.state.everything}

    def _started(self, event: TrialStarted) -> None:
        picture = self._picture(event.trial, event)
        picture.tags |= {
            f"{TAG}attempt": str(event.attempt),
            **({f"{TAG}versions": json.dumps(event.versions)} if event.versions else {}),
            f"{TAG}state": "RUNNING",
            f"{TAG}reason": "",
        }
        picture.reopen()

    def _opened(self, event: SweepOpened) -> None:
        self.parent.reopen()
        self.parent.artifacts = {
            "experiment.yaml": redacted(event.yaml),
            "experiment.json": json_text(event.experiment),
            "provenance.json": json_text(event.provenance),
            "controls.json": json_text(event.controls),
        }

    def _picture(self, name: str, event: Event) -> Picture:
        """The run of a trial, begun by this event when it is new."""
        if name not in self._pictures:
            trial = self.state.trial(name)
            document, kinds = _settings(self.state.experiment, trial.overrides)
            self._pictures[name] = Picture(
                name=name,
                start=milliseconds(event.time),
                tags={
                    ROLE: _role(trial),
                    f"{TAG}sweep": self.identity,
                    f"{TAG}trial": name,
                    f"{TAG}by": trial.by,
                    **kinds,
                },
                parameters=flat_parameters(document),
                artifacts={"experiment.json": json_text(document)},
            )
        return self._pictures[name]

    def _reported(self, event: StageReported) -> None:
        picture, report = self._picture(event.trial, event), event.report
        if report.taken_from is not None:
            # By task, the trial that has learnt it: this one has taken it over.
            taken = self.state.trial(event.trial).taken_over
            picture.tags[f"{TAG}taken_from"] = json.dumps(taken)
        index, known = report.task_index, self.state.trial(event.trial).task_steps
        before = sum(steps for task, steps in known.items() if task < index)
        step = before + report.step if index >= 0 else 0
        for name, metric in _STEP_METRICS.items():
            for back, value in enumerate(reversed(getattr(report, name))):
                picture.measure(event, {metric: value}, step - back)
        values: dict[str, Any] = {name: getattr(report, name) for name in _REPORT_METRICS}
        for probe, readings in (report.probes or {}).items():
            values |= {f"{reading}/{probe}": value for reading, value in readings.items()}
        if report.row is None:
            picture.measure(event, values | {f"score/{report.task}": report.score}, step)
            return
        scores = dict(zip(self.state.tasks, report.row, strict=True))
        picture.measure(event, values | {f"score/{t}": score for t, score in scores.items()}, step)
        stage = index + 1
        picture.measure(event, {f"R/{stage}/{t}": score for t, score in scores.items()}, stage)

    def _draw_matrix(self, trial: TrialRecord, picture: Picture) -> None:
        matrix = self.state.matrix(trial)
        if matrix is not None and (trial.learnt_rows or trial.base_row):
            document = {"tasks": self.state.tasks, "rows": without_nan(matrix.rows)}
            picture.artifacts["accuracy_matrix.json"] = json_text(document)

    def _trial_ended(self, event: TrialEnded) -> None:
        picture = self._picture(event.trial, event)
        picture.measure(event, _final_measures(event.measures or {}, event.gain_interval), 0)
        picture.tags |= {f"{TAG}state": event.state, f"{TAG}reason": event.reason}
        if event.log:
            picture.tags[f"{TAG}log"] = event.log
        picture.close(event, _STATUS[event.state])

    def _scored_later(self, event: CellsScored | TrialMeasured) -> None:
        picture = self._picture(event.trial, event)
        if isinstance(event, TrialMeasured):
            picture.measure(event, _final_measures(event.measures, event.gain_interval), 0)
            picture.tags[f"{TAG}examples"] = json.dumps(event.examples)
            return
        known = {f"R/{event.learnt}/{task}": found.value for task, found in event.scores.items()}
        picture.measure(event, known, event.learnt)

    def _ended(self, event: SweepEnded) -> None:
        champion = event.champion
        self.registered = None
        ended = {name: trial for name, trial in self.state.everything.items() if trial.over}
        for name in ended:
            self._pictures[name].tags |= {
                f"{TAG}on_front": _yes(name in event.front),
                f"{TAG}champion": _yes(name == champion),
            }
        self.touched |= {None, *ended}
        self.parent.tags |= {
            f"{TAG}champion": champion or "none",
            f"{TAG}reason": event.reason,
            f"{TAG}front": ",".join(event.front),
        }
        if champion in ended:
            # Under names of their own: the sweep's run is no rival of the trials.
            chosen = self.state.trial(champion)
            measures = _final_measures(chosen.measures, chosen.gain_interval)
            named = {f"champion/{key}": value for key, value in measures.items()}
            self.parent.measure(event, named, 0)
        finished = any(trial.state == "COMPLETE" for trial in ended.values())
        self.parent.close(event, "FINISHED" if finished else "FAILED")

    def _test_read(self, event: TestRead) -> None:
        """Test scores beside each trial that was scored; those of its first reading stay."""
        if event.reading is None:
            return
        self.touched |= {None, *event.sides}
        for name, side in event.sides.items():
            scores = zip(self.state.tasks, side.row, strict=True)
            values: dict[str, Any] = {f"test/{task}": score for task, score in scores}
            if name in event.gain:
                low, high = event.gain_intervals.get(name) or (None, None)
                values |= {"test_accuracy": event.accuracy[name],
                           "test_gain": event.gain[name],
                           "test_gain_low": low, "test_gain_high": high}  # fmt: skip
            pictures = [(self._pictures[name], "")] if name in self._pictures else []
            if name == event.champion and event.preference is None:
                pictures.append((self.parent, "champion/"))
            for picture, prefix in pictures:
                if f"{TAG}test_reading" not in picture.tags:
                    named = {f"{prefix}{key}": value for key, value in values.items()}
                    picture.measure(event, named, 0)
                    picture.tags[f"{TAG}test_reading"] = str(event.reading)


def _final_measures(
    measures: Mapping[str, float | None], interval: Sequence[float] | None
) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {**measures, "gain_low": low, "gain_high": high}


def _yes(answer: bool) -> str:
    return "true" if answer else "false"
