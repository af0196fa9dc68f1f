"""The runs that a journal's lines amount to: one for the sweep, one for each trial.

Steps: the *global step* of a report is the number of optimiser steps since the trial began, that is
the steps of the tasks learnt before plus the step within this one; row 0 (the untouched base) has
step 0. `R/<i>/<task>` is logged at step i, and a trial's final measures at step 0.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.records.events import Line
from orchestrator.records.journal_facts import effective_experiment, milliseconds
from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.picture import Picture, flat_parameters, json_text
from orchestrator.records.redaction import redacted, redacted_document
from orchestrator.spec.reach import refusal

_STATUS = {"COMPLETE": "FINISHED", "FAILED": "FAILED", "STOPPED": "KILLED"}
_TRIAL_STARTS = "trial_started"
_REOPENING = {"trial_proposed", _TRIAL_STARTS, "stage_report", "trial_ended"}
_OF_TRIALS = {"method", "training", "resources"}
"""What a search may vary: the parameters of trials, and not of the sweep's own run."""
_REPORT_METRICS = ("loss", "tokens", "seconds", "strength")
_STEP_METRICS = {"losses": "step_loss", "learning_rates": "learning_rate"}
"""Series of a report, one value a step, and the metric that each becomes."""


@dataclass
class _Trial:
    """What the journal said of a trial so far."""

    name: str
    document: Mapping[str, Any]
    """The sweep's experiment when the trial was proposed."""
    overrides: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    picture: Picture | None = None
    steps: dict[int, int] = field(default_factory=dict)
    rows: dict[int, list[float | None]] = field(default_factory=dict)
    ended: Line | None = None
    """The line of its last end."""


def _settings(trial: _Trial) -> tuple[dict[str, Any], dict[str, str]]:
    """A trial's whole experiment, and tags for the kind of its method."""
    if refusal(effective_experiment(trial.document, {}), trial.overrides) is not None:
        # An older version proposed what cannot be; it has failed, and no experiment is its own.
        return redacted_document(dict(trial.overrides)), {}
    experiment = effective_experiment(trial.document, trial.overrides)
    adapter, retention = experiment.method.adapter.kind, experiment.method.retention.kind
    method = adapter if retention == "none" else f"{adapter}+{retention}"
    document = redacted_document(experiment.model_dump(mode="json", exclude={"search"}))
    return document, {f"{TAG}adapter": adapter, f"{TAG}method": method}


class SweepRuns:
    """The fold over the lines of one sweep."""

    def __init__(self, opening: Line, identity: str, folder: Path) -> None:
        self.identity = identity
        self.folder = folder
        self.trials: dict[str, _Trial] = {}
        self.base_row: list[float | None] | None = None
        self.document: Mapping[str, Any] = opening["experiment"]
        self.registered: Line | None = None
        """The line that says that the champion of the last verdict was registered."""
        self.touched: set[str | None] = {None}
        """The runs (None: the sweep's own) whose pictures have changed since they were written."""
        self.parent = Picture(
            name=folder.name,
            start=milliseconds(opening),
            tags={
                f"{TAG}sweep": identity,
                f"{TAG}kind": str(opening.get("kind", "sweep")),
                f"{TAG}folder": str(folder),
                f"{TAG}origin": str(opening.get("origin", "")),
            },
            parameters=flat_parameters(
                redacted_document({k: v for k, v in self.document.items() if k not in _OF_TRIALS})
            ),
        )

    def add(self, line: Line) -> None:
        """Take in one more line; an event of a newer version is left out.

        Args:
            line: The next line.
        """
        event = line["event"]
        self.touched.add(line.get("trial"))
        if event in _REOPENING:
            self.touched.add(None)
            self.parent.reopen()
        match event:
            case "sweep_opened":
                self._opened(line)
            case "trial_proposed":
                trial = self._trial(line["trial"])
                trial.document = self.document
                trial.overrides, trial.by = line["overrides"], str(line.get("by", ""))
            case "trial_started":
                self._started(line)
            case "stage_report":
                self._reported(line)
            case "trial_ended":
                self._trial_ended(line)
            case "sweep_ended" | "sweep_stopped" | "test_read":
                self._concluded(line)
            case "champion_registered":
                self.registered = line
            case _:
                pass

    def pictures(self, wanted: Collection[str | None]) -> dict[str | None, Picture]:
        """Some of the runs that there should be, the sweep's own (None) first.

        Args:
            wanted: Which; the work done is for these alone.

        Returns:
            The pictures of those that have begun, by name.
        """
        pictures: dict[str | None, Picture] = {None: self.parent} if None in wanted else {}
        for name in sorted(name for name in wanted if name is not None):
            trial = self.trials.get(name)
            if trial is not None and trial.picture is not None:
                if trial.ended is not None:
                    self._draw_matrix(trial, trial.picture)
                pictures[name] = trial.picture
        return pictures

    def everything(self) -> set[str | None]:
        """The name of every trial that was proposed, and None."""
        return {None, *self.trials}

    def _concluded(self, line: Line) -> None:
        match line["event"]:
            case "sweep_ended":
                self._ended(line)
            case "test_read":
                self._test_read(line)
            case _:
                self.touched.add(None)
                self.parent.close(line, "FAILED")

    def _started(self, line: Line) -> None:
        picture = self._picture(line)
        picture.tags |= {
            f"{TAG}attempt": str(line["attempt"]),
            **({f"{TAG}versions": json.dumps(made)} if (made := line.get("versions")) else {}),
            f"{TAG}state": "RUNNING",
            f"{TAG}reason": "",
        }
        picture.reopen()

    def _opened(self, line: Line) -> None:
        self.document = line["experiment"]
        self.parent.reopen()
        self.parent.artifacts = {
            "experiment.yaml": redacted(str(line.get("yaml", ""))),
            "experiment.json": json_text(line["experiment"]),
            "provenance.json": json_text(line.get("provenance", {})),
            "controls.json": json_text(line.get("controls", {})),
        }

    def _trial(self, name: str) -> _Trial:
        return self.trials.setdefault(name, _Trial(name, self.document))

    def _picture(self, line: Line) -> Picture:
        """The run of a line's trial; a trial that was only proposed has none."""
        trial = self._trial(line["trial"])
        if trial.picture is None:
            document, kinds = _settings(trial)
            trial.picture = Picture(
                name=trial.name,
                start=milliseconds(line),
                tags={
                    f"{TAG}sweep": self.identity,
                    f"{TAG}trial": trial.name,
                    f"{TAG}by": trial.by,
                    **kinds,
                },
                parameters=flat_parameters(document),
                artifacts={"experiment.json": json_text(document)},
            )
        return trial.picture

    def _reported(self, line: Line) -> None:
        picture, trial, report = self._picture(line), self._trial(line["trial"]), line["report"]
        index = int(report["task_index"])
        if index >= 0:
            trial.steps[index] = int(report["steps"])
        before = sum(steps for task, steps in trial.steps.items() if task < index)
        step = before + int(report["step"]) if index >= 0 else 0
        for name, metric in _STEP_METRICS.items():
            series = report.get(name) or ()
            for back, value in enumerate(reversed(series)):
                picture.measure(line, {metric: value}, step - back)
        values: dict[str, Any] = {name: report.get(name) for name in _REPORT_METRICS}
        for probe, readings in (report.get("probes") or {}).items():
            values |= {f"{reading}/{probe}": value for reading, value in readings.items()}
        row = report.get("row")
        if row is None:
            values[f"score/{report['task']}"] = report.get("score")
            picture.measure(line, values, step)
            return
        tasks = list(trial.document["tasks"])
        scores = dict(zip(tasks, row, strict=True))
        picture.measure(line, values | {f"score/{t}": score for t, score in scores.items()}, step)
        stage = index + 1
        picture.measure(line, {f"R/{stage}/{t}": score for t, score in scores.items()}, stage)
        trial.rows[stage] = row
        if stage == 0:
            self.base_row = row

    def _draw_matrix(self, trial: _Trial, picture: Picture) -> None:
        rows = dict(trial.rows)
        if rows and self.base_row is not None:
            rows.setdefault(0, self.base_row)
        if rows:
            tasks = list(trial.document["tasks"])
            unknown = [None] * len(tasks)
            matrix = [rows.get(stage, unknown) for stage in range(max(rows) + 1)]
            picture.artifacts["accuracy_matrix.json"] = json_text({"tasks": tasks, "rows": matrix})

    def _trial_ended(self, line: Line) -> None:
        picture, trial = self._picture(line), self._trial(line["trial"])
        trial.ended = line
        picture.measure(line, _final_measures(line), 0)
        picture.tags |= {f"{TAG}state": line["state"], f"{TAG}reason": line["reason"] or ""}
        if line.get("log"):
            picture.tags[f"{TAG}log"] = line["log"]
        picture.close(line, _STATUS[line["state"]])

    def _ended(self, line: Line) -> None:
        champion = line["champion"]
        self.registered = None
        ended = {name: t for name, t in self.trials.items() if t.ended is not None}
        for name, trial in ended.items():
            if trial.picture is not None:
                trial.picture.tags |= {
                    f"{TAG}on_front": _yes(name in line["front"]),
                    f"{TAG}champion": _yes(name == champion),
                }
        self.touched |= {None, *ended}
        self.parent.tags |= {
            f"{TAG}champion": champion or "none",
            f"{TAG}reason": line["reason"],
            f"{TAG}front": ",".join(line["front"]),
        }
        chosen = ended[champion].ended if champion in ended else None
        if chosen is not None:
            # Under names of their own: the sweep's run is no rival of the trials.
            measures = {f"champion/{k}": v for k, v in _final_measures(chosen).items()}
            self.parent.measure(line, measures, 0)
        finished = any(
            t.ended is not None and t.ended["state"] == "COMPLETE" for t in ended.values()
        )
        self.parent.close(line, "FINISHED" if finished else "FAILED")

    def _test_read(self, line: Line) -> None:
        """Test scores beside each trial that was scored; those of its first reading stay."""
        if line["reading"] is None:
            return
        tasks = list(self.document["tasks"])
        self.touched |= {None, *line["sides"]}
        for name, side in line["sides"].items():
            trial = self.trials.get(name)
            values = {f"test/{t}": score for t, score in zip(tasks, side["row"], strict=True)}
            if name in line["gain"]:
                low, high = line["gain_intervals"].get(name) or (None, None)
                values |= {"test_accuracy": line["accuracy"][name],
                           "test_gain": line["gain"][name],
                           "test_gain_low": low, "test_gain_high": high}  # fmt: skip
            pictures = [(trial.picture, "")] if trial is not None else []
            if name == line["champion"]:
                pictures.append((self.parent, "champion/"))
            for picture, prefix in pictures:
                if picture is not None and f"{TAG}test_reading" not in picture.tags:
                    named = {f"{prefix}{key}": value for key, value in values.items()}
                    picture.measure(line, named, 0)
                    picture.tags[f"{TAG}test_reading"] = str(line["reading"])


def _final_measures(line: Line) -> dict[str, Any]:
    low, high = line.get("gain_interval") or (None, None)
    return {**(line.get("measures") or {}), "gain_low": low, "gain_high": high}


def _yes(answer: bool) -> str:
    return "true" if answer else "false"
