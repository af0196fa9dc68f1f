"""What the pictures of one trial draw: its loss by step, its scores after each task."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.records.readings import CONTROLS
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord

_MOST_POINTS = 2000


def losses(view: SweepState, trial: TrialRecord) -> dict[str, Any]:
    """The training loss by optimiser step through all tasks, and where each task begins."""
    points = [(step, loss) for step, loss in trial.losses if math.isfinite(loss)]
    if not points:
        return {"empty": "No training loss has been recorded."}
    step = max(1, math.ceil(len(points) / _MOST_POINTS))
    marks, begun = [], 0
    order = view.order_of(trial)
    for index, steps in sorted(trial.task_steps.items()):
        marks.append({"at": begun + 1, "name": order[index] if index < len(order) else ""})
        begun += steps
    return {
        "x": {"label": "optimiser step"},
        "y": {"label": "training loss (nats)"},
        "lines": [{"name": trial.name, "points": [[x, round(y, 5)] for x, y in points[::step]]}],
        "marks": marks if len(marks) > 1 else [],
    }


def scores(view: SweepState, trial: TrialRecord) -> dict[str, Any]:
    """The score on each task after every task that was learnt: what falls is forgetting."""
    matrix = view.matrix(trial)
    if matrix is None or len(matrix.rows) < 2:
        return {"empty": "No task has been learnt to its end so far."}
    order = view.order_of(trial)[: len(matrix.rows) - 1]
    lines: list[dict[str, Any]] = [
        {"name": task, "points": [[i, row[column]] for i, row in enumerate(matrix.rows)]}
        for column, task in enumerate(matrix.tasks)
    ]
    return {
        "x": {"label": "after learning", "ticks": ["untouched base", *order]},
        "y": {"label": "score"},
        "lines": lines,
    }


def control_rows(view: SweepState) -> list[tuple[str, list[float]]]:
    """What the controls score on each task, without those that were not measured."""
    found = [(label, view.control_scores(name)) for name, label in CONTROLS.items()]
    found.append(("chance", view.control_scores("chance")))
    return [(label, row) for label, row in found[1:] if any(map(math.isfinite, row))]
