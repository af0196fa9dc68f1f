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
from orchestrator.formatting import show, show_interval
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
    adapter_sha256: str | None = None
    """None of an adapter of an earlier version."""
    log: str | None = None
    started: float | None = None
    ended: float | None = None
    versions: list[dict[str, str]] = field(default_factory=list)
    """With which versions of what it was computed, see `versions`; several where a sweep was
    continued with others in the middle of it."""

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


@dataclass(frozen=True)
class Leading:
    """A trial that has not ended yet, by its last report."""

    trial: str
    report: Mapping[str, Any]
    score: float
    """Mean over the tasks that were scored."""
    ahead: float
    """The same minus the untouched base's, NaN while that is not known."""


def _compared(
    report: Mapping[str, Any], tasks: Sequence[str], zero_shot: Sequence[float]
) -> tuple[float, float]:
    """What a report scores, and the untouched base on the same tasks."""
    if not report.get("row"):
        # A report that is of none of the tasks is of all, learnt jointly.
        single = report["task"] in tasks
        other = zero_shot[tasks.index(report["task"])] if single else mean(zero_shot)
        return number(report.get("score")), other
    row = [number(score) for score in report["row"]]
    known = [i for i, score in enumerate(row) if not math.isnan(score)]
    return mean([row[i] for i in known]), mean([zero_shot[i] for i in known])


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
            own, other = _compared(last, self.tasks, zero_shot)
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


def versions(document: Mapping[str, Any]) -> dict[str, str]:
    """The versions that a start of a sweep was recorded with, by what they are of.

    Args:
        document: `code`, `packages`, `python` and `platform`, as far as they were recorded.

    Returns:
        Such as {"torch": "2.13.0", "python": "3.11.9", "code": "0.1.0 (4a2b...)"}.
    """
    found = {str(k): str(v) for k, v in (document.get("packages") or {}).items() if v}
    found |= {key: str(document[key]) for key in ("python", "platform") if document.get(key)}
    code = document.get("code") or {}
    if code.get("version"):
        commit = f" ({code['commit']})" if code.get("commit") else ""
        found["code"] = f"{code['version']}{commit}"
    return found


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


def reading_words(reading: Mapping[str, Any]) -> str:
    """The headline of a reading of the test data, a sentence for people.

    Args:
        reading: A line of `test_read` with a number.

    Returns:
        What the champion scored, on how many examples, and which reading it is.
    """
    champion, count = reading["champion"], sum(reading["examples"].values())
    chose = "which had no part in any choice"
    if reading["reading"] > 1:
        chose = f"in their reading {reading['reading']}: they had been looked at before"
    told = (
        f"On {count} test examples, {chose}: gain of {champion} "
        f"{show(reading['gain'][champion], signed=True)} "
        f"{show_interval(reading['gain_intervals'][champion])} over {reading['reference']}"
    )
    other = reading["runner_up"]
    if other in reading["gain"]:
        means = reading["accuracy"]
        ahead = number(means[champion]) - number(means[other])
        told += f", {show(ahead, signed=True)} {show_interval(reading['runner_up_interval'])}"
        told += f" over the runner-up {other}"
    return f"{told}."


def reading_comparisons(
    reading: Mapping[str, Any],
) -> list[tuple[str, float, float, list[float] | None]]:
    """The champion of a reading of the test data against each control and the runner-up.

    Args:
        reading: A line of `test_read` with a number.

    Returns:
        What it is compared with, that one's mean over tasks, the champion's minus it, and the
        paired interval of the difference; without controls that have no score.
    """
    champion = reading["champion"]
    own, rows = number(reading["accuracy"][champion]), reading_scores(reading)
    found = [
        (CONTROLS[control], mean(rows[control]), reading["intervals"][champion].get(control))
        for control in CONTROLS
        if control in rows
    ]
    other = reading["runner_up"]
    if other in reading["accuracy"]:
        score = number(reading["accuracy"][other])
        found.append((f"{other}, the runner-up", score, reading["runner_up_interval"]))
    return [
        (name, score, own - score, interval)
        for name, score, interval in found
        if not math.isnan(score)
    ]


def reading_scores(reading: Mapping[str, Any]) -> dict[str, list[float]]:
    """The scores of a reading of the test data, by task in their order.

    Args:
        reading: A line of `test_read` with a number.

    Returns:
        By control (a key of `CONTROLS`) and trial; without rows of which nothing was measured.
    """
    sides, controls = reading["sides"], reading["controls"]
    rows = {
        "zero_shot": sides[BASE]["row"],
        **controls,
        **{name: sides[name]["row"] for name in (reading["runner_up"], reading["champion"])
           if name in sides},
    }  # fmt: skip
    numbers = {name: [number(score) for score in row] for name, row in rows.items()}
    return {n: row for n, row in numbers.items() if not all(math.isnan(x) for x in row)}


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
