"""The report's sections on scores: test readings, scores by task, finalists."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
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
from orchestrator.report.markup import Markup, element, join
from orchestrator.report.tables import SIGNED, plain_table
from orchestrator.system.formatting import show, show_interval


def test_readings(view: SweepState) -> Markup | None:
    """What the test data say, each reading by itself, the first one first."""
    parts: list[object] = []
    for reading in view.readings:
        if not reading.reading:
            continue
        champion, runner_up = reading.champion, reading.runner_up
        labels = {**CONTROLS, str(runner_up): f"{runner_up}, the runner-up"}
        rows = [
            (
                "champion" if name == champion else "control",
                [labels.get(name, name), *map(show, scores), show(mean(scores))],
            )
            for name, scores in reading_scores(reading).items()
        ]
        counts = [reading.examples.get(task, "-") for task in view.tasks]
        rows.append(("control", ["test examples", *map(str, counts), ""]))
        compared = [
            ("", [name, show(score), show(difference, signed=True), show_interval(interval)])
            for name, score, difference, interval in reading_comparisons(reading)
        ]
        parts += [
            element("p", reading_words(reading)),
            plain_table(
                f"Reading {reading.reading}: {champion} minus each, mean over tasks",
                ["compared with", "its mean", "difference", "95 % interval"],
                compared,
            ),
            plain_table(
                f"Reading {reading.reading}: scores by task", ["", *view.tasks, "mean"], rows
            ),
        ]
    return join(*parts) if parts else None


def scores_by_task(view: SweepState) -> Markup | None:
    """Controls beside what the champion (or the largest gain) reached, by task and on average."""
    if not view.tasks:
        return None
    heads = ["", *view.tasks, "mean"]
    rows: list[tuple[str, Sequence[object]]] = []
    best = view.best
    matrix = view.matrix(best) if best is not None else None
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        scores = view.control_scores(control)
        if control != "head_only" or any(not math.isnan(score) for score in scores):
            rows.append(("control", [label, *map(show, scores), show(mean(scores))]))
    told = None
    if best is not None and matrix is not None and matrix.tasks_learnt:
        last = matrix.tasks_learnt
        after = [matrix.rows[i + 1][i] if i < last else math.nan for i in range(len(view.tasks))]
        final = list(matrix.rows[last])
        rows.append(
            ("", [f"{best.name} right after the task", *map(show, after), show(mean(after))])
        )
        label = f"{best.name} after {matrix.tasks[last - 1]}"
        rows.append(("champion", [label, *map(show, final), show(mean(final))]))
        base = view.everything[BASE_TRIAL].per_example if BASE_TRIAL in view.everything else {}
        own = [paired_interval(best.per_example, base, [task]) for task in view.tasks]
        row = [
            "  minus zero-shot, 95 %",
            *map(show_interval, own),
            show_interval(best.interval("zero_shot")),
        ]
        if any(own):  # a linear head has no zero-shot score
            rows.append(("", row))
        told = _against_controls(view, best, mean(final))
    counts = [view.controls.get(task, {}).get("validation_examples") for task in view.tasks]
    rows.append(
        ("control", ["validation examples", *("-" if c is None else c for c in counts), ""])
    )
    who = "of the champion" if view.champion else "of the largest gain"
    caption = f"Controls, and the scores {who}" if best is not None else "Controls"
    return join(plain_table(caption, heads, rows), told)


def _against_controls(view: SweepState, best: TrialRecord, final: float) -> Markup:
    rows = []
    for control, label in CONTROLS.items():
        interval, score = best.interval(control), mean(view.control_scores(control))
        if interval is None and math.isnan(score):
            continue
        rows.append(
            ("", [label, show(score), show(final - score, signed=True), show_interval(interval)])
        )
    return plain_table(
        f"{best.name} against each control, mean over tasks",
        ["control", "its mean", "difference", "95 % interval"],
        rows,
    )


def finalists(view: SweepState) -> Markup | None:
    """What fresh seeds gave."""
    if not view.finalists:
        return None
    names = [n for n in NATURAL_DIRECTIONS if any(n in f.mean for f in view.finalists)]
    rows = []
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
    return plain_table("Mean ± standard deviation over seeds", heads, rows, words=(1,))
