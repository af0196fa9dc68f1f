"""Tables of scores by task: test readings, controls, what the best trial reached, finalists."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.output.tables import add_cells, natural_width, table
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.events import TestRead
from orchestrator.records.extension_words import (
    extension_rows,
    extension_scores,
    parent_words,
)
from orchestrator.records.readings import CONTROLS, reading_comparisons, reading_scores
from orchestrator.records.scores import mean
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.formatting import show, show_interval


def reading_tables(view: SweepState, width: int) -> list[RenderableType]:
    """What the test data say, each reading by itself, the first one first."""
    tables: list[RenderableType] = []
    for reading in view.readings:
        if not reading.reading:
            continue
        champion = reading.champion
        title = f"Test examples, reading {reading.reading}: {champion} minus each control"
        made = table(title, "compared with", "its mean", "difference", "95 % interval",
                     left={"compared with"})  # fmt: skip
        for name, score, difference, interval in reading_comparisons(reading):
            add_cells(
                made, [name, show(score), show(difference, signed=True), show_interval(interval)]
            )
        labels = {**CONTROLS, str(reading.runner_up): f"{reading.runner_up}, the runner-up",
                  str(champion): f"{champion}, {_role(reading)}"}  # fmt: skip
        rows = {
            labels.get(name, name): [show(score) for score in scores]
            for name, scores in reading_scores(reading).items()
        }
        rows["test examples"] = [str(reading.examples.get(t, "-")) for t in view.tasks]
        tables += [made, Text(), *task_tables(view, width, rows, "Test scores by task")]
    return tables


def _role(reading: TestRead) -> str:
    return "champion then" if reading.preference is None else f"by {reading.preference}"


def extension_tables(view: SweepState, width: int) -> list[RenderableType]:
    """What was gained and lost since the trial that the sweep goes on from, if it does."""
    event = view.extension
    if event is None:
        return []
    further, earlier = ", ".join(event.further), ", ".join(event.earlier)
    made = table(
        f"Minus {parent_words(event)} as it was, mean over tasks",
        "trial", f"on {further}", "95 % interval", f"on {earlier}", "95 % interval ",
        left={"trial"},
    )  # fmt: skip
    for label, cells in extension_rows(event):
        add_cells(made, [label, *cells])
    rows = {
        label: [show(score) for score in scores]
        for label, scores in extension_scores(event).items()
    }
    return [made, Text(), *task_tables(view, width, rows, "Scores by task, at the end")]


def task_tables(
    view: SweepState,
    width: int,
    rows: Mapping[str, list[str]] | None = None,
    title: str = "Scores by task",
) -> list[RenderableType]:
    """Scores by task, in as many tables as the width needs."""
    rows = task_rows(view) if rows is None else rows
    if not view.tasks or not rows:
        return []
    tables: list[RenderableType] = []
    start = 0
    while start < len(view.tasks):
        stop = start + 1
        made = _task_table(view.tasks, rows, start, stop, title)
        while stop < len(view.tasks):
            wider = _task_table(view.tasks, rows, start, stop + 1, title)
            if natural_width(wider) > width:
                break
            made, stop = wider, stop + 1
        tables += [made, Text()]
        start = stop
    return tables


def _task_table(
    tasks: list[str], rows: Mapping[str, list[str]], start: int, stop: int, title: str
) -> Table:
    made = table(title, "", *tasks[start:stop], left={""})
    for name, cells in rows.items():
        add_cells(made, [name, *cells[start:stop]])
    return made


def task_rows(view: SweepState) -> dict[str, list[str]]:
    """The rows of the table of tasks: controls first, then what the best trial reached.

    Args:
        view: The sweep.

    Returns:
        A label and one cell per task for each row.
    """
    rows: dict[str, list[str]] = {}
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        scores = view.control_scores(control)
        # Tasks without a head of their own have no such control.
        if control != "head_only" or not all(math.isnan(score) for score in scores):
            rows[label] = [show(score) for score in scores]
    best = view.best
    matrix = view.matrix(best) if best is not None else None
    if best is not None and matrix is not None and matrix.tasks_learnt:
        rows |= _learnt_rows(best.name, matrix)
    if best is not None and view.is_screened(best):
        own = view.examples(best)
        rows[f"  first examples scored of {best.name}"] = [str(own.get(t, "-")) for t in view.tasks]
    counts = [view.controls.get(task, {}).get("validation_examples") for task in view.tasks]
    rows["validation examples"] = ["-" if count is None else str(count) for count in counts]
    return rows


def _learnt_rows(name: str, matrix: AccuracyMatrix) -> dict[str, list[str]]:
    last = matrix.tasks_learnt
    after = [show(matrix.rows[i + 1][i]) if i < last else "-" for i in range(len(matrix.tasks))]
    rows = {
        f"{name} right after the task": after,
        f"{name} after {matrix.tasks[last - 1]}": [show(score) for score in matrix.rows[last]],
    }
    if last < 2:
        return rows
    lost, when = [], []
    for task in range(len(matrix.tasks)):
        earlier = {i: matrix.rows[i][task] for i in range(1, last)}
        # The task learnt last has nothing to forget yet, whatever it scored before.
        if task >= last - 1 or any(math.isnan(score) for score in earlier.values()):
            lost.append("-")
            when.append("-")
            continue
        best = max(earlier, key=lambda i: earlier[i])
        lost.append(show(earlier[best] - matrix.rows[last][task], signed=True))
        when.append(matrix.tasks[best - 1])
    rows["forgotten since its best"] = lost
    rows["  its best was after"] = when
    return rows


def comparison_tables(view: SweepState) -> list[RenderableType]:
    """The best trial against each control, and what fresh seeds gave; empty for older journals."""
    tables: list[RenderableType] = []
    best = view.best
    if best is not None and best.intervals and not view.is_screened(best):
        made = table(
            f"{best.name} minus each control, mean over tasks",
            "control", "control's", "difference", "95 % interval", left={"control"},
        )  # fmt: skip
        for control, label in CONTROLS.items():
            score = mean(view.control_scores(control))
            if math.isnan(score) and best.interval(control) is None:
                continue
            difference = best.measure("accuracy") - score
            add_cells(made, [label, show(score), show(difference, signed=True),
                        show_interval(best.interval(control))])  # fmt: skip
        tables += [made, Text()]
    if view.finalists:
        names = [n for n in NATURAL_DIRECTIONS if any(n in f.mean for f in view.finalists)]
        shown = [
            name for name in ("gain", "accuracy", "forgetting", "probe_drift") if name in names
        ]
        made = table(
            "Finalists with fresh seeds: mean and standard deviation",
            "trial", "seeds", *(name.replace("_", " ") for name in shown), left={"trial"},
        )  # fmt: skip
        for finalist in view.finalists:
            cells = [
                f"{show(finalist.mean.get(name), signed=name != 'accuracy')} "
                f"+- {show(finalist.spread.get(name))}"
                for name in shown
            ]
            add_cells(made, [finalist.trial, str(1 + len(finalist.repeats)), *cells])
        tables += [made, Text()]
    return tables
