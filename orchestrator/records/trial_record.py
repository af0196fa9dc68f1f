"""What the journal says of one trial, for whatever shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.measures.accuracy_matrix import NOT_MEASURED
from orchestrator.records.event_values import EarlyStop, TaskScores
from orchestrator.records.events import CellsScored, TrialMeasured
from orchestrator.records.scores import mean, number
from orchestrator.records.stage_report import StageReport

BASE_TRIAL = "base"
"""Name of the control trial that measures row 0: the untouched base model."""
AS_IT_WAS = "as it was"
"""The side of a reading of the test data that is the trial that a sweep goes on from."""
REQUEST = "request"
"""Who proposes the trials that people have asked for; the request's name follows."""
STATES = ("PROPOSED", "RUNNING", "COMPLETE", "FAILED", "STOPPED")
"""What a trial may be."""
COMPARISON = "comparison"
"""Who proposes the trials beside which a sweep that learns on from another trial is read."""


@dataclass
class TrialRecord:
    """What the journal says of one trial."""

    name: str
    overrides: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    """Who proposed it: the searcher, or "fresh seed"."""
    of: str | None = None
    """The trial that this one repeats with another seed."""
    state: str = "PROPOSED"
    """One of `STATES`."""
    reason: str = ""
    attempts: int = 0
    """How often it was started."""
    by_stage: dict[tuple[int, float], StageReport] = field(
        default_factory=dict[tuple[int, float], StageReport]
    )
    """The last report of each stage, see `StageReport.stage`; oldest first."""
    lines: dict[tuple[int, float], int] = field(default_factory=dict[tuple[int, float], int])
    """Which line of the journal holds that report whole."""
    measures: dict[str, float | None] = field(default_factory=dict)
    """On all examples, once its whole matrix was scored; before, as when it ended."""
    searched_measures: dict[str, float | None] = field(default_factory=dict)
    """When it ended: on the examples that all trials of the search are scored on."""
    task_adapters: dict[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])
    """What is kept of it after each task but the last, by how many were learnt: place and hash."""
    later: dict[tuple[int, str], TaskScores] = field(
        default_factory=dict[tuple[int, str], TaskScores]
    )
    """What was scored later, by how many tasks were learnt and by task; not only of the sweep's."""
    later_lines: list[int] = field(default_factory=list[int])
    """Which lines of the journal hold that whole."""
    unscored: dict[tuple[int, str], str] = field(default_factory=dict[tuple[int, str], str])
    """What could not be, and why."""
    whole_examples: dict[str, int] | None = None
    """How many examples of each task stand behind `measures`, once its whole matrix was scored."""
    gain_interval: list[float] | None = None
    intervals: dict[str, list[float] | None] = field(default_factory=dict)
    """Of the mean difference to each control, by its key in `CONTROLS`; see `interval`."""
    adapter: str | None = None
    adapter_sha256: str | None = None
    """None of an adapter of an earlier version."""
    carried: str | None = None
    """What a further task would begin from, see `TrialEnded`; None of earlier versions."""
    carried_sha256: str | None = None
    carried_bytes: int = 0
    log: str | None = None
    stop: EarlyStop | None = None
    """Why it was stopped early, if it was."""
    told: float | None = None
    """When it started, or told its last report: what it did since then may be lost."""
    started: float | None = None
    ended: float | None = None
    versions: list[dict[str, str]] = field(default_factory=list)
    """With which versions of what it was computed, see `versions`; several where a sweep was
    continued with others in the middle of it."""

    @property
    def is_searched(self) -> bool:
        """Whether it is of the search: no repetition of another, and no comparison."""
        return self.of is None and self.by != COMPARISON

    @property
    def is_asked_for(self) -> bool:
        """Whether a person has asked for it, beside what the search proposes."""
        return self.by.partition(" ")[0] == REQUEST

    @property
    def over(self) -> bool:
        """Whether it ended, however it ended."""
        return self.state not in {"PROPOSED", "RUNNING"}

    @property
    def reports(self) -> list[StageReport]:
        """Its reports, oldest first."""
        return list(self.by_stage.values())

    @property
    def taken_over(self) -> dict[str, str]:
        """By task that it has not trained, the trial that has; after its sweep if of another."""
        return {report.task: report.taken_from for report in self.reports if report.taken_from}

    def take_report(self, report: StageReport, line: int) -> None:
        """Know of a report; one that is made again takes the place of the first.

        Args:
            report: The report.
            line: Which line of the journal holds it.
        """
        self.forget(report.stage)
        self.by_stage[report.stage], self.lines[report.stage] = report, line

    def forget(self, stage: tuple[int, float]) -> None:
        """Let a report be made again."""
        self.by_stage.pop(stage, None)
        self.lines.pop(stage, None)

    def start_over(self) -> None:
        """Forget what it reported and how it ended."""
        self.state, self.reason = "PROPOSED", ""
        self.by_stage.clear()
        self.lines.clear()
        self.measures, self.gain_interval, self.intervals = {}, None, {}
        self.searched_measures, self.whole_examples = {}, None
        self.task_adapters.clear()
        self.later.clear()
        self.unscored.clear()
        self.later_lines.clear()
        self.adapter = self.adapter_sha256 = self.ended = self.stop = None
        self.carried = self.carried_sha256 = None
        self.versions = []

    def take_later(self, event: CellsScored, *, examples: bool) -> None:
        """Know of cells that were scored later.

        Args:
            event: Which.
            examples: Whether the score of each example is kept.
        """
        self.later_lines.append(event.n)
        for task, scores in event.scores.items():
            kept = scores if examples else replace(scores, per_example=())
            self.later[(event.learnt, task)] = kept
            self.unscored.pop((event.learnt, task), None)
        for task, why in (event.unscored or {}).items():
            self.unscored[(event.learnt, task)] = why

    def take_measures(self, event: TrialMeasured) -> None:
        """Know what it measures on all examples."""
        self.measures, self.whole_examples = event.measures, event.examples
        self.gain_interval, self.intervals = event.gain_interval, event.intervals or {}

    @property
    def examples(self) -> dict[str, int] | None:
        """How many validation examples of each task stand behind its measures; None: all."""
        if self.whole_examples is not None:
            return self.whole_examples
        return next((r.examples for r in reversed(self.reports) if r.row is not None), None)

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
        found = [(r.task_index, r.per_example) for r in self.reports if r.per_example and r.row]
        if not found:
            return {}
        index, scores = found[-1]
        if self.whole_examples is not None:
            later = {t: self.later[(index + 1, t)] for t in scores if (index + 1, t) in self.later}
            scores = scores | {t: each.per_example for t, each in later.items()}
        return {t: list(each) for t, each in scores.items() if each}

    def learnt_per_example(self, tasks: Sequence[str]) -> dict[str, list[float]]:
        """By task, the score of each of its validation examples right after it was learnt.

        Args:
            tasks: The task sequence.

        Returns:
            Without the tasks that were not learnt, and those of a journal that did not keep them.
        """
        found: dict[str, list[float]] = {}
        for report in self.reports:
            scores = report.per_example or {}
            if report.row and report.task_index >= 0:
                # A report that is of none of the tasks is of all, learnt jointly.
                own = [report.task] if report.task in tasks else tasks
                found |= {t: list(scores[t]) for t in own if scores.get(t)}
        return found

    @property
    def losses(self) -> list[tuple[int, float]]:
        """Training loss by step, counted from 1 through all tasks; of a repeated step its last."""
        steps = {r.task_index: r.steps for r in self.reports}
        series: dict[int, float] = {}
        for report in self.reports:
            index, losses = report.task_index, report.losses
            before = sum(count for task, count in steps.items() if 0 <= task < index)
            first = before + report.step - len(losses) + 1
            series |= {first + i: number(loss) for i, loss in enumerate(losses)}
        return sorted(series.items())

    @property
    def task_steps(self) -> dict[int, int]:
        """Optimiser steps of each task that was begun, by its index from 0."""
        return {r.task_index: r.steps for r in self.reports if r.task_index >= 0}

    def measure(self, name: str) -> float:
        """A measure, NaN when it was not measured."""
        value = self.measures.get(name)
        return NOT_MEASURED if value is None else float(value)

    def searched_measure(self, name: str) -> float:
        """A measure on the examples that all trials of the search are scored on, NaN if unknown."""
        value = self.searched_measures.get(name)
        return NOT_MEASURED if value is None else float(value)

    @property
    def base_row(self) -> list[float] | None:
        """The scores before anything was learnt, None unless this trial measured them."""
        rows = [r.row for r in self.reports if r.task_index < 0 and r.row]
        return list(rows[-1]) if rows else None

    @property
    def learnt_rows(self) -> dict[int, list[float]]:
        """Scores on every task after each task that was learnt, by its index from 0."""
        return {
            report.task_index: list(report.row)
            for report in self.reports
            if report.task_index >= 0 and report.row
        }


@dataclass(frozen=True)
class Leading:
    """A trial that has not ended yet, by its last report."""

    trial: str
    report: StageReport
    score: float
    """Mean over the tasks that were scored."""
    ahead: float
    """The same minus the untouched base's, NaN while that is not known."""


def compared_with_base(
    report: StageReport, tasks: Sequence[str], zero_shot: Sequence[float]
) -> tuple[float, float]:
    """What a report scores, and the untouched base on the same tasks."""
    row = report.row
    if not row:
        # A report that is of none of the tasks is of all, learnt jointly.
        single = report.task in tasks
        other = zero_shot[tasks.index(report.task)] if single else mean(zero_shot)
        return report.score, other
    known = [i for i, score in enumerate(row) if not math.isnan(score)]
    return mean([row[i] for i in known]), mean([zero_shot[i] for i in known])
