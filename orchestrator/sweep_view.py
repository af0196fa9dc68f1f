"""What the journal says of a sweep and its trials, for whatever shows it.

Everything here is a function of journal lines, and needs neither terminal nor browser. What an
older version did not write is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from orchestrator.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.experiment import Experiment, ExperimentError
from orchestrator.journal import Line
from orchestrator.objectives import gain_interval

BASE = "base"
"""Name of the control trial: the untouched base model."""

CONTROLS = {
    "zero_shot": "zero-shot (untouched base)",
    "majority": "majority class",
    "head_only": "head only (base frozen)",
}
"""What a trial is compared with, and its name for people; `chance` is a number without examples."""


@dataclass
class TrialView:
    """What the journal says of one trial."""

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    """Who proposed it: the searcher, or "fresh seed"."""
    of: str | None = None
    """The trial that this one repeats with another seed."""
    state: str = "PROPOSED"
    """PROPOSED, RUNNING, COMPLETE, FAILED or STOPPED."""
    reason: str = ""
    reports: list[dict[str, Any]] = field(default_factory=list)
    measures: dict[str, float | None] = field(default_factory=dict)
    gain_interval: list[float] | None = None
    intervals: dict[str, list[float] | None] = field(default_factory=dict)
    """Of the mean difference to each control, by its key in `CONTROLS`; see `interval`."""
    adapter: str | None = None
    log: str | None = None
    started: float | None = None
    ended: float | None = None

    def interval(self, control: str) -> list[float] | None:
        """The 95 % interval of its mean final score minus that of a control of `CONTROLS`."""
        if control == "zero_shot" and not self.intervals:  # journals of earlier versions
            return self.gain_interval
        return self.intervals.get(control)

    @property
    def per_example(self) -> dict[str, list[float]]:
        """By task, the final score of each validation example; empty when it did not end."""
        if self.state != "COMPLETE":
            return {}
        found = [r["per_example"] for r in self.reports if r.get("per_example") and r.get("row")]
        return {t: list(scores) for t, scores in found[-1].items() if scores} if found else {}

    def learnt_per_example(self, tasks: Sequence[str]) -> dict[str, list[float]]:
        """By task, the score of each of its validation examples right after it was learnt.

        Args:
            tasks: The task sequence.

        Returns:
            Without the tasks that were not learnt, and those of a journal that did not keep them.
        """
        found: dict[str, list[float]] = {}
        for report in self.reports:
            scores = report.get("per_example") or {}
            if report.get("row") and report["task_index"] >= 0:
                # A report that is of none of the tasks is of all, learnt jointly.
                own = [report["task"]] if report["task"] in tasks else tasks
                found |= {t: list(scores[t]) for t in own if scores.get(t)}
        return found

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Training loss by step, counted from 1 through all tasks; of a repeated step its last."""
        steps = {int(r["task_index"]): int(r.get("steps") or 0) for r in self.reports}
        series: dict[int, float] = {}
        for report in self.reports:
            index, losses = int(report["task_index"]), report.get("losses") or []
            before = sum(count for task, count in steps.items() if 0 <= task < index)
            first = before + int(report.get("step") or 0) - len(losses) + 1
            series |= {first + i: number(loss) for i, loss in enumerate(losses)}
        return sorted(series.items())

    @property
    def task_steps(self) -> dict[int, int]:
        """Optimiser steps of each task that was begun, by its index from 0."""
        return {
            int(r["task_index"]): int(r.get("steps") or 0)
            for r in self.reports
            if r["task_index"] >= 0
        }

    def measure(self, name: str) -> float:
        """A measure, NaN when it was not measured."""
        value = self.measures.get(name)
        return NOT_MEASURED if value is None else float(value)

    @property
    def base_row(self) -> list[float] | None:
        """The scores before anything was learnt, None unless this trial measured them."""
        rows = [r["row"] for r in self.reports if r["task_index"] < 0 and r.get("row")]
        return [number(score) for score in rows[-1]] if rows else None

    @property
    def learnt_rows(self) -> dict[int, list[float]]:
        """Scores on every task after each task that was learnt, by its index from 0."""
        return {
            int(report["task_index"]): [number(score) for score in report["row"]]
            for report in self.reports
            if report["task_index"] >= 0 and report.get("row")
        }


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
    model: str | None = None
    """Name and version in the model registry, once the champion is registered."""
    version: str | None = None
    everything: dict[str, TrialView] = field(default_factory=dict)
    """Every trial by name, the untouched base included."""

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
            case "sweep_continued":
                for name in line.get("retried", ()):
                    trial = self.trial(name)
                    trial.state, trial.reason, trial.reports = "PROPOSED", "", []
            case "trial_proposed":
                trial = self.trial(line["trial"])
                trial.overrides, trial.by = line.get("overrides", {}), str(line.get("by", ""))
                trial.of = line.get("of")
            case "trial_started":
                trial = self.trial(line["trial"])
                trial.state, trial.started = "RUNNING", line.get("time")
            case "stage_report":
                self.trial(line["trial"]).reports.append(line["report"])
            case "trial_ended":
                self._take_end(line)
            case "sweep_ended":
                self.ended, self.front = True, line["front"]
                self.champion, self.reason = line["champion"], line["reason"]
                self.finalists = line.get("finalists") or []
                self.runner_up = line.get("runner_up")
                self.runner_up_interval = line.get("runner_up_interval")
            case "champion_registered":
                self.model, self.version = line["model"], str(line["version"])
            case _:  # a newer version's event: what is known is still shown
                pass

    def _take_end(self, line: Line) -> None:
        trial = self.trial(line["trial"])
        trial.state, trial.reason = line["state"], line.get("reason") or ""
        trial.measures, trial.gain_interval = line.get("measures") or {}, line.get("gain_interval")
        trial.intervals = line.get("intervals") or {}
        trial.adapter, trial.log = line.get("adapter"), line.get("log")
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
        """The champion, or else the finished trial with the largest gain."""
        if self.champion is not None:
            return self.trial(self.champion)
        measured = [
            trial
            for trial in self.finished
            if trial.of is None and not math.isnan(trial.measure("gain"))
        ]
        return max(measured, key=lambda t: t.measure("gain"), default=None)

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


def mean(scores: Sequence[float]) -> float:
    """The mean over tasks, NaN when one was not measured."""
    return sum(scores) / len(scores) if scores else NOT_MEASURED


def paired_interval(
    mine: Mapping[str, Sequence[float | None]],
    other: Mapping[str, Sequence[float | None]],
    tasks: Sequence[str],
) -> list[float] | None:
    """The paired bootstrap interval of two sides' mean score difference over the same examples.

    Args:
        mine: By task, the score of each example.
        other: The same of the other side.
        tasks: The tasks to average over.

    Returns:
        Low and high; None where a task or an example is missing on either side.
    """
    sides = [[side.get(task) or [] for task in tasks] for side in (mine, other)]
    counts = [[len(scores) for scores in side] for side in sides]
    whole = all(score is not None for side in sides for scores in side for score in scores)
    if not tasks or counts[0] != counts[1] or 0 in counts[0] or not whole:
        return None
    made = gain_interval(*(_numbers(side) for side in sides))
    return [made.low, made.high]


def _numbers(side: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[number(score) for score in scores] for scores in side]


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested document as dotted paths and values."""
    leaves: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def number(value: float | None) -> float:
    """A number of the journal, NaN when it was not measured (null)."""
    return NOT_MEASURED if value is None else float(value)
