"""What the journal says of a sweep, for whatever shows it.

Everything here is a function of journal lines, and needs neither terminal nor browser. What an
older version did not write is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from orchestrator.measures.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.records.events import Line
from orchestrator.records.journal_facts import versions
from orchestrator.records.readings import reading_words
from orchestrator.records.scores import flat, number
from orchestrator.records.trial_record import BASE, Leading, TrialView, compared_with_base
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.validation import ExperimentError


@dataclass
class SweepView:
    """What the journal says of a sweep; lines are taken one by one."""

    name: str = ""
    kind: str = "sweep"
    experiment: dict[str, Any] = field(default_factory=dict)
    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    task_files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The task files of tasks and probes, by name."""
    yaml: str = ""
    """The experiment file as it was written."""
    origin: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    opened: float | None = None
    changed: float | None = None
    ended: bool = False
    front: list[str] = field(default_factory=list)
    champion: str | None = None
    reason: str = ""
    finalists: list[dict[str, Any]] = field(default_factory=list)
    """Trials repeated with fresh seeds: `trial`, `repeats`, `mean` and `spread` by measure."""
    runner_up: str | None = None
    runner_up_interval: list[float] | None = None
    """Of the champion's mean score minus the runner-up's."""
    compared: int | None = None
    """For the choice among how many trials the verdict's intervals allow; None: they do not."""
    readings: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The readings of the test data, oldest first: lines of `test_read`."""
    model: str | None = None
    """Name and version in the model registry, once the champion is registered."""
    version: str | None = None
    everything: dict[str, TrialView] = field(default_factory=dict)
    """Every trial by name, the untouched base included."""
    _joint: dict[str, bool] = field(default_factory=dict[str, bool])
    versions: dict[str, str] = field(default_factory=dict)
    """Those of the last start of the sweep, see `versions`."""

    @classmethod
    def of(cls, lines: Iterable[Line]) -> SweepView:
        """The view of a whole journal."""
        view = cls()
        for line in lines:
            view.take(line)
        return view

    def take(self, line: Line) -> None:
        """Take one journal line."""
        self.changed = line.get("time")
        match line["event"]:
            case "sweep_opened":
                self.name, self.kind = line["sweep"], line.get("kind", "sweep")
                self.experiment, self.controls = line["experiment"], line.get("controls", {})
                self.origin, self.provenance = line.get("origin", ""), line.get("provenance", {})
                self.task_files, self.yaml = line.get("tasks") or {}, line.get("yaml") or ""
                self.opened = line.get("time")
                self.versions = versions(self.provenance)
            case "sweep_continued":
                self._take_continuation(line)
            case "trial_proposed":
                self._go_on()
                trial = self.trial(line["trial"])
                trial.overrides, trial.by = line.get("overrides", {}), str(line.get("by", ""))
                trial.of = line.get("of")
            case "trial_started":
                self._take_start(line)
            case "stage_report":
                self._take_report(line)
            case "trial_ended":
                self._take_end(line)
            case "sweep_ended":
                self._take_verdict(line)
            case "test_read":
                self.readings.append(line)
            case "champion_registered":
                self.model, self.version = line["model"], str(line["version"])
            case _:  # a newer version's event: what is known is still shown
                pass

    def _take_continuation(self, line: Line) -> None:
        # Earlier versions wrote that of the code alone.
        self.versions = self.versions | versions(line)
        search = self.experiment.get("search")
        if search and line.get("trials"):
            self.experiment = {**self.experiment, "search": {**search, "trials": line["trials"]}}
        for name in line.get("retried", ()):
            self._go_on()
            trial = self.trial(name)
            trial.state, trial.reason, trial.reports = "PROPOSED", "", []
            trial.versions = []

    def _take_verdict(self, line: Line) -> None:
        self.ended, self.front = True, line["front"]
        self.champion, self.reason = line["champion"], line["reason"]
        self.finalists = line.get("finalists") or []
        self.runner_up = line.get("runner_up")
        self.runner_up_interval = line.get("runner_up_interval")
        self.compared = line.get("compared")

    def _go_on(self) -> None:
        """Forget the verdict: trials are added to a sweep that had ended."""
        self.ended, self.front, self.champion, self.reason = False, [], None, ""
        self.finalists, self.runner_up, self.runner_up_interval = [], None, None
        self.compared = None

    def _take_start(self, line: Line) -> None:
        trial = self.trial(line["trial"])
        trial.state, trial.started = "RUNNING", line.get("time")
        made_with = line.get("versions") or self.versions
        if made_with and made_with not in trial.versions[-1:]:
            trial.versions = [*trial.versions, made_with]

    def _take_report(self, line: Line) -> None:
        trial, report = self.trial(line["trial"]), line["report"]
        key = (report["task_index"], report.get("fraction"))
        # One that is made again, as its adapter was lost, takes the place of the first.
        others = [r for r in trial.reports if (r["task_index"], r.get("fraction")) != key]
        trial.reports = [*others, report]

    def _take_end(self, line: Line) -> None:
        trial = self.trial(line["trial"])
        trial.state, trial.reason = line["state"], line.get("reason") or ""
        trial.measures, trial.gain_interval = line.get("measures") or {}, line.get("gain_interval")
        trial.intervals = line.get("intervals") or {}
        trial.adapter, trial.log = line.get("adapter"), line.get("log")
        trial.adapter_sha256 = line.get("adapter_sha256")
        trial.ended = line.get("time")

    def trial(self, name: str) -> TrialView:
        """The trial of that name, made when it is new."""
        return self.everything.setdefault(name, TrialView(name))

    @property
    def trials(self) -> list[TrialView]:
        """The trials in the order of their proposal, without the untouched base."""
        return [trial for name, trial in self.everything.items() if name != BASE]

    @property
    def searched(self) -> list[TrialView]:
        """The trials without repetitions of another with a fresh seed."""
        return [trial for trial in self.trials if trial.of is None]

    @property
    def finished(self) -> list[TrialView]:
        """The trials that ended, however they ended."""
        return [trial for trial in self.trials if trial.state not in {"PROPOSED", "RUNNING"}]

    @property
    def total(self) -> int:
        """How many trials the sweep is to hold."""
        search = self.experiment.get("search")
        if self.kind == "run" or not search:
            return max(1, len(self.trials))
        searched = len(self.searched)
        repeated = len(self.trials) - searched
        parsed = _experiment(self.experiment)
        if self.ended or parsed is None:
            return max(int(search.get("trials") or 0) if parsed is None else 0, searched) + repeated
        return max(parsed.searched_trials, searched) + max(parsed.repeated_trials, repeated)

    @property
    def tasks(self) -> list[str]:
        """The task sequence."""
        return list(self.experiment.get("tasks", []))

    @property
    def best(self) -> TrialView | None:
        """The champion, or else the finished trial with the largest gain, controls left out."""
        if self.champion is not None:
            return self.trial(self.champion)
        measured = [
            trial
            for trial in self.finished
            if trial.of is None
            and not math.isnan(trial.measure("gain"))
            and not self._is_joint(trial)
        ]
        return max(measured, key=lambda t: t.measure("gain"), default=None)

    @property
    def reading(self) -> dict[str, Any] | None:
        """The reading of the test data that shows the present champion, None before there is one.

        Of several the first: later ones of the same champion score another runner-up.
        """
        mine = [r for r in self.readings if r.get("reading") and r["champion"] == self.champion]
        return mine[0] if mine and self.ended else None

    def _is_joint(self, trial: TrialView) -> bool:
        """Whether a trial learns all tasks at once: a control, which is never champion."""
        if trial.name not in self._joint:
            self._joint[trial.name] = self.settings(trial).get("method.sequence") == "joint"
        return self._joint[trial.name]

    @property
    def leading(self) -> Leading | None:
        """The unfinished trial that has come furthest; of several the one that scores best there.

        Before a trial has ended, that is all that can be compared.
        """
        base = self.everything.get(BASE)
        zero_shot = (base.base_row if base else None) or [NOT_MEASURED] * len(self.tasks)
        found: list[tuple[tuple[int, float, float], Leading]] = []
        for trial in self.trials:
            reports = [r for r in trial.reports if r["task_index"] >= 0]
            if trial.state != "RUNNING" or not reports:
                continue
            last = reports[-1]
            own, other = compared_with_base(last, self.tasks, zero_shot)
            merit = (int(last["task_index"]), float(last["fraction"]), own)
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
        tried = [r["unread"] for r in self.readings if r["champion"] == self.champion]
        if tried:
            why = "; ".join(f"{name}: {reason}" for name, reason in tried[-1].items())
            return f"The test examples could not be scored: {why.rstrip('.')}."
        return (
            "The test examples have not been read; `orchestrate sweep` with the same file does it."
        )

    def settings(self, trial: TrialView) -> dict[str, Any]:
        """The trial's whole method and training, its overrides applied."""
        if trial.name == BASE:
            return {}
        parsed = _experiment(self.experiment)
        if parsed is None:
            return dict(trial.overrides)
        try:
            document = parsed.with_overrides(trial.overrides).model_dump(mode="json")
        except ExperimentError:  # written by a version with other fields
            return dict(trial.overrides)
        parts = ("method", "training", "resources")
        return flat({part: document[part] for part in parts})

    def control_scores(self, control: str) -> list[float]:
        """A control's score on each task, NaN where it was not measured.

        Args:
            control: A key of `CONTROLS`, or `chance`.

        Returns:
            One score per task.
        """
        base = self.everything.get(BASE)
        if control == "zero_shot":
            return (base.base_row if base else None) or [NOT_MEASURED] * len(self.tasks)
        if control != "head_only":
            return [number(self.controls.get(task, {}).get(control)) for task in self.tasks]
        found: dict[str, Any] = {}
        for report in base.reports if base else []:
            found |= report.get("head_only") or {}
        return [_first_number(found.get(task)) for task in self.tasks]

    @property
    def searched_settings(self) -> list[str]:
        """Dotted paths that the search or any trial sets, in the order of the file."""
        space = (self.experiment.get("search") or {}).get("space") or {}
        paths = [*space, *(path for trial in self.searched for path in trial.overrides)]
        return list(dict.fromkeys(paths))

    def matrix(self, trial: TrialView) -> AccuracyMatrix | None:
        """The accuracy matrix as far as it was measured, None when no row was."""
        base = self.everything.get(BASE)
        first = trial.base_row or (base.base_row if base else None)
        learnt = trial.learnt_rows
        if not learnt and first is None:
            return None
        empty = [NOT_MEASURED] * len(self.tasks)
        count = max(learnt, default=-1) + 1
        rows = [first or empty, *(learnt.get(index, empty) for index in range(count))]
        return AccuracyMatrix(tuple(self.tasks), tuple(tuple(row) for row in rows))


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
