"""The report's sections with pictures: the front, curves, parallel coordinates, matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.readings import CONTROLS
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.report import svg_curves, svg_trade_off
from orchestrator.report.deciding import course
from orchestrator.report.figures import Figures, measure_words
from orchestrator.report.tables import measure_cell
from orchestrator.report.trial_roles import by_merit, role_of
from orchestrator.system.formatting import count, show, show_interval

_MOST_OPEN = 6
"""Matrices that are open from the start; the others open on a click."""


def front(view: SweepState, figures: Figures) -> dict[str, Any] | None:
    """The trade-offs, with a legend."""
    if not view.trials and not figures.trade_offs:
        return None
    charts = [
        {
            "picture": svg_trade_off.trade_off(figure, dict(figures.colours)),
            "against": measure_words(figure.x),
            "missing": count(figure.missing, "trial") if figure.missing else "",
        }
        for figure in figures.trade_offs
    ]
    groups = sorted({dot.group for figure in figures.trade_offs for dot in figure.dots})
    return {
        "charts": charts,
        "groups": [(svg_trade_off.marker(10, 6, i), group) for i, group in enumerate(groups)],
        "objectives": ", ".join(view.experiment.get("objectives") or {}) if view.front else None,
        "champion": view.champion,
    }


def parallel(figures: Figures) -> Markup | None:
    """Settings and measures side by side."""
    return None if figures.parallel is None else svg_curves.parallel(figures.parallel)


def curves(view: SweepState, figures: Figures) -> dict[str, Any] | None:
    """Losses by step, and scores by tasks learnt."""
    learning = figures.learning
    if learning is None and not figures.forgetting:
        return None
    return {
        "colours": figures.colours,
        "champion": view.champion,
        "undrawn": count(figures.undrawn, "trial") if figures.undrawn > 0 else "",
        "learning": learning and (learning.title, svg_curves.curves(learning)),
        "forgetting": [(one.title, svg_curves.curves(one, small=True))
                       for one in figures.forgetting],
    }  # fmt: skip


def search_course(view: SweepState) -> dict[str, Any] | None:
    """What the search had found by when, what was stopped where and why, and which knobs matter."""
    steps = course.course(view)
    volume = course.volume_curve(steps)
    tables = [
        course.spent_by_method(view),
        course.front_over_time(view, steps),
        course.stopped_early(view),
    ]
    found = [table for table in tables if table is not None]
    knobs = course.knobs(view)
    if volume is None and not found and knobs is None:
        return None
    return {
        "volume": volume and (volume.title, svg_curves.curves(volume)),
        "tables": found,
        "knobs": knobs,
    }


def matrices(view: SweepState) -> list[dict[str, Any]]:
    """The accuracy matrix of every trial, the best ones open."""
    found = [(trial, view.matrix(trial)) for trial in by_merit(view) if trial.reports]
    return [
        {
            "name": trial.name,
            "heading": _heading(view, trial),
            "open": number < _MOST_OPEN,
            "tasks": matrix.tasks,
            "rows": list(_rows(matrix, view.order_of(trial))),
            "controls": list(_controls(view)),
        }
        for number, (trial, matrix) in enumerate(
            (trial, matrix) for trial, matrix in found if matrix is not None
        )
    ]


def _heading(view: SweepState, trial: TrialRecord) -> str:
    words = f"{trial.name}, {trial.state.lower()}"
    if not math.isnan(trial.measure("gain")):
        words += f", gain {measure_cell(trial, 'gain')} {show_interval(trial.gain_interval)}"
    role = role_of(view, trial)
    return words + f", {role}" * (role in {"champion", "front"})


def _rows(
    matrix: AccuracyMatrix, order: Sequence[str]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The name and the cells of each row; where nothing was measured, a cell has no shade."""
    names = ["0 (untouched base)", *(f"{i} {task}" for i, task in enumerate(order, 1))]
    for stage, (name, row) in enumerate(zip(names, matrix.rows, strict=False)):
        own = order[stage - 1] if stage else None
        yield (
            name,
            [
                {"score": show(score), "shade": _shade(score), "learnt": task == own}
                for task, score in zip(matrix.tasks, row, strict=True)
            ],
        )


def _shade(score: float) -> str | None:
    return None if math.isnan(score) else f"h{min(10, max(0, round(score * 10)))}"


def _controls(view: SweepState) -> Iterator[tuple[str, list[str]]]:
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        scores = view.control_scores(control)
        if control != "zero_shot" and any(not math.isnan(score) for score in scores):
            yield label, [show(score) for score in scores]
