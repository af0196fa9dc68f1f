"""The report's sections on scores: test readings, scores by task, finalists."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.events import TestRead
from orchestrator.records.extension_words import (
    extension_rows,
    extension_scores,
    parent_words,
)
from orchestrator.records.readings import (
    CONTROLS,
    reading_comparisons,
    reading_scores,
    reading_words,
)
from orchestrator.records.scores import mean, paired_interval
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.report.figures import measure_words
from orchestrator.report.tables import SIGNED, Row, Table
from orchestrator.system.formatting import show, show_interval


def test_readings(view: SweepState) -> list[dict[str, Any]]:
    """What the test data say, each reading by itself, the first one first."""
    return [
        {"words": reading_words(reading), "tables": _reading_tables(view, reading)}
        for reading in view.readings
        if reading.reading
    ]


def _reading_tables(view: SweepState, reading: TestRead) -> list[Table]:
    champion, runner_up = reading.champion, reading.runner_up
    compared: list[Row] = [
        ("", [name, show(score), show(difference, signed=True), show_interval(interval)])
        for name, score, difference, interval in reading_comparisons(reading)
    ]
    labels = {**CONTROLS, str(runner_up): f"{runner_up}, the runner-up"}
    rows = [
        _score_row("champion" if name == champion else "control", labels.get(name, name), scores)
        for name, scores in reading_scores(reading).items()
    ]
    counts = [reading.examples.get(task, "-") for task in view.tasks]
    return [
        Table(
            f"Reading {reading.reading}: {champion} minus each, mean over tasks",
            ["compared with", "its mean", "difference", "95 % interval"],
            compared,
        ),
        Table(
            f"Reading {reading.reading}: scores by task",
            ["", *view.tasks, "mean"],
            [*rows, ("control", ["test examples", *counts, ""])],
        ),
    ]


def _score_row(kind: str, label: str, scores: list[float]) -> Row:
    return kind, [label, *map(show, scores), show(mean(scores))]


def extension(view: SweepState) -> list[Table]:
    """What was gained and lost since the trial that the sweep goes on from, if it does."""
    event = view.extension
    if event is None:
        return []
    heads = ["on " + ", ".join(event.further), "95 %", "on " + ", ".join(event.earlier), "95 % "]
    scores = extension_scores(event).items()
    return [
        Table(
            f"Each minus {parent_words(event)} as it was, mean over tasks",
            ["", *heads],
            [("", [label, *cells]) for label, cells in extension_rows(event)],
        ),
        Table(
            "Scores by task, at the end",
            ["", *event.earlier, *event.further, "mean"],
            [_score_row("", label, row) for label, row in scores],
        ),
    ]


def scores_by_task(view: SweepState) -> list[Table]:
    """Controls beside what the champion (or the largest gain) reached, by task and on average."""
    if not view.tasks:
        return []
    best = view.best
    matrix = view.matrix(best) if best is not None else None
    rows, more = list(_control_rows(view)), list[Table]()
    if best is not None and matrix is not None and matrix.tasks_learnt:
        rows += _trial_rows(view, best, matrix)
        if view.is_screened(best):
            own = view.examples(best)
            shown = [own.get(task, "-") for task in view.tasks]
            rows.append(("", [f"  first examples scored of {best.name}", *shown, ""]))
        else:
            more.append(_against_controls(view, best, matrix))
    counts = [view.controls.get(task, {}).get("validation_examples") for task in view.tasks]
    counts = ["-" if count is None else count for count in counts]
    rows.append(("control", ["validation examples", *counts, ""]))
    who = "of the champion" if view.champion else "of the largest gain"
    caption = f"Controls, and the scores {who}" if best is not None else "Controls"
    return [Table(caption, ["", *view.tasks, "mean"], rows), *more]


def _control_rows(view: SweepState) -> Iterator[Row]:
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        scores = view.control_scores(control)
        if control != "head_only" or any(not math.isnan(score) for score in scores):
            yield _score_row("control", label, scores)


def _trial_rows(view: SweepState, best: TrialRecord, matrix: AccuracyMatrix) -> Iterator[Row]:
    last = matrix.tasks_learnt
    after = [matrix.rows[i + 1][i] if i < last else math.nan for i in range(len(view.tasks))]
    yield _score_row("", f"{best.name} right after the task", after)
    label = f"{best.name} after {matrix.tasks[last - 1]}"
    yield _score_row("champion", label, list(matrix.rows[last]))
    base = view.everything[BASE_TRIAL].per_example if BASE_TRIAL in view.everything else {}
    own = [paired_interval(best.per_example, base, [task]) for task in view.tasks]
    if any(own):  # a linear head has no zero-shot score
        intervals = map(show_interval, [*own, best.interval("zero_shot")])
        yield "", ["  minus zero-shot, 95 %", *intervals]


def _against_controls(view: SweepState, best: TrialRecord, matrix: AccuracyMatrix) -> Table:
    final = mean(list(matrix.rows[matrix.tasks_learnt]))
    rows: list[Row] = []
    for control, label in CONTROLS.items():
        interval, score = best.interval(control), mean(view.control_scores(control))
        if interval is None and math.isnan(score):
            continue
        cells = [label, show(score), show(final - score, signed=True), show_interval(interval)]
        rows.append(("", cells))
    return Table(
        f"{best.name} against each control, mean over tasks",
        ["control", "its mean", "difference", "95 % interval"],
        rows,
    )


def finalists(view: SweepState) -> list[Table]:
    """What fresh seeds gave."""
    if not view.finalists:
        return []
    names = [n for n in NATURAL_DIRECTIONS if any(n in f.mean for f in view.finalists)]
    rows: list[Row] = []
    for finalist in view.finalists:
        cells = [
            f"{show(finalist.mean.get(name), signed=name in SIGNED)} "
            f"± {show(finalist.spread.get(name))}"
            for name in names
        ]
        kind = "champion" if finalist.trial == view.champion else ""
        repeats = ", ".join(finalist.repeats) or "-"
        rows.append((kind, [finalist.trial, repeats, *cells]))
    heads = ["finalist", "repeated as", *map(measure_words, names)]
    return [Table("Mean ± standard deviation over seeds", heads, rows, words=(1,))]
