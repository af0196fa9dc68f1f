"""The report's sections with pictures: the front, curves, parallel coordinates, matrices."""

from __future__ import annotations

import math

from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.readings import CONTROLS
from orchestrator.records.sweep_state import SweepState
from orchestrator.report import svg_curves, svg_trade_off
from orchestrator.report.figures import Figures, measure_words
from orchestrator.report.markup import Markup, element, join
from orchestrator.report.tables import measure_cell, scrolled
from orchestrator.report.trial_roles import by_merit, role_of
from orchestrator.system.formatting import count, show, show_interval

_MOST_OPEN = 6
"""Matrices that are open from the start; the others open on a click."""


def front(view: SweepState, figures: Figures) -> Markup | None:
    """The trade-offs, with a legend."""
    if not figures.trade_offs:
        if not view.trials:
            return None
        return element("p", "No completed trial has both a gain and something to weigh it against.")
    colours = dict(figures.colours)
    charts = []
    for figure in figures.trade_offs:
        caption = f"Gain against {measure_words(figure.x)}; up and left is better."
        if figure.missing:
            caption += f" Not drawn: {count(figure.missing, 'trial')} without both measures."
        charts.append(
            element(
                "figure", svg_trade_off.trade_off(figure, colours), element("figcaption", caption)
            )
        )
    objectives = ", ".join(view.experiment.get("objectives") or {})
    told = (
        "Bars are 95 % intervals of the gain. A broken line joins the trials that no other beats "
    )
    told += "in the two measures shown."
    if view.front:
        told += f" Filled marks are on the front of all objectives ({objectives})."
    if view.champion:
        told += " The ring is the champion."
    groups = sorted({dot.group for figure in figures.trade_offs for dot in figure.dots})
    return join(
        element("div", *charts, class_="charts"),
        element("div", *(_key(i, group) for i, group in enumerate(groups)), class_="legend"),
        element("p", told, class_="quiet"),
    )


def _key(number_: int, group: str) -> Markup:
    mark = element(
        "svg",
        svg_trade_off.marker(10, 6, number_),
        viewBox="0 0 20 12",
        aria_hidden="true",
        class_="kf",
    )
    return element("span", mark, group or "-")


def parallel(figures: Figures) -> Markup | None:
    """Settings and measures side by side."""
    if figures.parallel is None:
        return None
    return element(
        "figure",
        scrolled("Parallel coordinates", svg_curves.parallel(figures.parallel)),
        element(
            "figcaption",
            "One line per completed trial; stronger lines have more gain. "
            "Measures in italics. Point at a line, or at a row of the table, to follow it.",
        ),
        class_="wide",
    )


def curves(view: SweepState, figures: Figures) -> Markup | None:
    """Losses by step, and scores by tasks learnt."""
    if figures.learning is None and not figures.forgetting:
        return None
    keys = [
        element(
            "span",
            element(
                "svg",
                element(
                    "line", x1=0, y1=6, x2=20, y2=6, class_="bar", style="stroke-width:3;opacity:1"
                ),
                viewBox="0 0 20 12",
                class_=f"k{colour}",
                aria_hidden="true",
            ),
            name + " (champion)" * (name == view.champion),
        )
        for name, colour in figures.colours.items()
    ]
    parts: list[object] = [element("div", *keys, class_="legend")]
    if figures.undrawn > 0:
        parts.append(
            element(
                "p",
                f"{count(figures.undrawn, 'trial')} of smaller gain are not drawn.",
                class_="quiet",
            )
        )
    if figures.learning is not None:
        parts.append(
            element(
                "figure",
                element("h3", figures.learning.title),
                scrolled(figures.learning.title, svg_curves.curves(figures.learning)),
                class_="wide",
            )
        )
    if figures.forgetting:
        told = "Each task's score after every task learnt; what falls behind its broken line is "
        told += "forgetting. Level lines: the untouched base and head only (solid), the majority "
        told += "class (dashed), chance (dotted)."
        charts = [
            element(
                "figure",
                element("figcaption", element("strong", curves.title)),
                svg_curves.curves(curves, small=True),
            )
            for curves in figures.forgetting
        ]
        parts += [
            element("h3", "Scores of each task through the sequence"),
            element("p", told, class_="quiet"),
            element("div", *charts, class_="charts small"),
        ]
    return join(*parts)


def matrices(view: SweepState) -> Markup | None:
    """The accuracy matrix of every trial, the best ones open."""
    parts = []
    for trial in by_merit(view):
        matrix = view.matrix(trial)
        if matrix is None or not trial.reports:
            continue
        words = f"{trial.name}, {trial.state.lower()}"
        if not math.isnan(trial.measure("gain")):
            words += f", gain {measure_cell(trial, 'gain')} {show_interval(trial.gain_interval)}"
        role = role_of(view, trial)
        words += f", {role}" * (role in {"champion", "front"})
        parts.append(
            element(
                "details",
                element("summary", words),
                _heat_map(view, matrix),
                id=f"matrix-{trial.name}",
                open=len(parts) < _MOST_OPEN,
                class_="print",
            )
        )
    if not parts:
        return None
    told = (
        "Row by row the scores on every task after what was learnt so far; row 0 is the untouched "
    )
    told += "base. Bold is the task just learnt."
    return join(element("p", told, class_="quiet"), element("div", *parts, class_="matrices"))


def _heat_map(view: SweepState, matrix: AccuracyMatrix) -> Markup:
    # Many names side by side would make the matrix wider than a screen; the rows name them too.
    narrow = len(matrix.tasks) > 5
    names = ["0 (untouched base)", *(f"{i} {task}" for i, task in enumerate(matrix.tasks, 1))]
    body = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(_heat(score, learnt=stage == task + 1) for task, score in enumerate(row)),
        )
        for stage, (name, row) in enumerate(zip(names, matrix.rows, strict=False))
    ]
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        scores = view.control_scores(control)
        if control != "zero_shot" and any(not math.isnan(score) for score in scores):
            body.append(
                element(
                    "tr",
                    element("th", label, scope="row"),
                    *(element("td", show(s)) for s in scores),
                    class_="control",
                )
            )
    heads = [
        element("th", i if narrow else task, scope="col", title=task)
        for i, task in enumerate(matrix.tasks, 1)
    ]
    made = element(
        "table",
        element("thead", element("tr", element("th", "after", scope="col"), *heads)),
        element("tbody", *body),
        class_="matrix",
    )
    return scrolled("Accuracy matrix", made)


def _heat(score: float, *, learnt: bool) -> Markup:
    if math.isnan(score):
        return element("td", "-")
    shade = f"h{min(10, max(0, round(score * 10)))}"
    return element("td", element("b", show(score)) if learnt else show(score), class_=shade)
