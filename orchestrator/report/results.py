"""The sections of the page that show what came out: front, scores, trials, curves, matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.formatting import count, show, show_interval, show_setting
from orchestrator.objectives import NATURAL_DIRECTIONS
from orchestrator.report import svg
from orchestrator.report.figures import Figures, by_merit, measure_words, role_of
from orchestrator.report.markup import Markup, element, join
from orchestrator.report.tables import (
    SIGNED,
    measure_cell,
    plain_table,
    scrolled,
    trial_link,
)
from orchestrator.sweep_documents import log_path
from orchestrator.sweep_view import (
    BASE,
    CONTROLS,
    SweepView,
    TrialView,
    mean,
    paired_interval,
    reading_comparisons,
    reading_scores,
    reading_words,
)

_MOST_OPEN = 6
"""Matrices that are open from the start; the others open on a click."""


def front(view: SweepView, figures: Figures) -> Markup | None:
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
            element("figure", svg.trade_off(figure, colours), element("figcaption", caption))
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
        "svg", svg.marker(10, 6, number_), viewBox="0 0 20 12", aria_hidden="true", class_="kf"
    )
    return element("span", mark, group or "-")


def test_readings(view: SweepView) -> Markup | None:
    """What the test data say, each reading by itself, the first one first."""
    parts: list[object] = []
    for reading in view.readings:
        if not reading.get("reading"):
            continue
        champion, runner_up = reading["champion"], reading["runner_up"]
        labels = {**CONTROLS, runner_up: f"{runner_up}, the runner-up"}
        rows = [
            (
                "champion" if name == champion else "control",
                [labels.get(name, name), *map(show, scores), show(mean(scores))],
            )
            for name, scores in reading_scores(reading).items()
        ]
        counts = [reading["examples"].get(task, "-") for task in view.tasks]
        rows.append(("control", ["test examples", *map(str, counts), ""]))
        compared = [
            ("", [name, show(score), show(difference, signed=True), show_interval(interval)])
            for name, score, difference, interval in reading_comparisons(reading)
        ]
        parts += [
            element("p", reading_words(reading)),
            plain_table(
                f"Reading {reading['reading']}: {champion} minus each, mean over tasks",
                ["compared with", "its mean", "difference", "95 % interval"],
                compared,
            ),
            plain_table(
                f"Reading {reading['reading']}: scores by task", ["", *view.tasks, "mean"], rows
            ),
        ]
    return join(*parts) if parts else None


def scores_by_task(view: SweepView) -> Markup | None:
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
        base = view.everything[BASE].per_example if BASE in view.everything else {}
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


def _against_controls(view: SweepView, best: TrialView, final: float) -> Markup:
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


def finalists(view: SweepView) -> Markup | None:
    """What fresh seeds gave."""
    if not view.finalists:
        return None
    names = [n for n in NATURAL_DIRECTIONS if any(n in f.get("mean", {}) for f in view.finalists)]
    rows = []
    for finalist in view.finalists:
        spread = finalist.get("spread") or {}
        cells = [
            f"{show(finalist['mean'].get(name), signed=name in SIGNED)} ± {show(spread.get(name))}"
            for name in names
        ]
        kind = "champion" if finalist["trial"] == view.champion else ""
        repeats = ", ".join(finalist.get("repeats") or []) or "-"
        rows.append((kind, [finalist["trial"], repeats, *cells]))
    heads = ["finalist", "repeated as", *map(measure_words, names)]
    return plain_table("Mean ± standard deviation over seeds", heads, rows, words=(1,))


# --- trials --------------------------------------------------------------------------------------

_MEASURES = ("gain", "accuracy", "forgetting", "probe_drift", "cost_s")
_FIRST = {"gain": "descending", "accuracy": "descending"}


def all_trials(view: SweepView) -> Markup:
    """Every trial in one table that can be sorted."""
    if not view.trials:
        return element("p", "No trial has been proposed yet.")
    extra = [n for n in view.experiment.get("objectives") or {} if n not in _MEASURES]
    measures = [*_MEASURES[:4], *extra, _MEASURES[4]]
    settings = {trial.name: view.settings(trial) for trial in view.trials}
    paths = [
        path
        for path in view.searched_settings
        if len({str(settings[t.name].get(path)) for t in view.trials}) > 1 or len(view.trials) == 1
    ]
    head: list[Markup] = [_sort_head("trial", "word"), _sort_head("state", "word")]
    for name in measures:
        head.append(
            _sort_head(
                measure_words(name),
                "number",
                _FIRST.get(name),
            )
        )
        if name == "gain":
            head.append(element("th", "95 % interval", scope="col"))
    compared = [c for c in ("majority", "head_only") if any(t.interval(c) for t in view.trials)]
    head += [
        element("th", f"minus {CONTROLS[c].split(' (')[0]}, 95 %", scope="col") for c in compared
    ]
    for path in paths:
        values = [settings[t.name].get(path) for t in view.trials]
        kind = "number" if all(isinstance(v, int | float) or v is None for v in values) else "word"
        head.append(_sort_head(path.rsplit(".", 1)[-1], kind, title=path))
    body = [
        _trial_row(view, t, measures, compared, paths, settings[t.name]) for t in by_merit(view)
    ]
    width = 4 + len(measures) - 2
    controls = []
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        score = mean(view.control_scores(control))
        if not math.isnan(score):
            cells = ["control", *([""] * (width - 1 + len(compared) + len(paths)))]
            cells[measures.index("accuracy") + 2] = show(score)
            short = label.partition(" (")[0]
            controls.append(
                element(
                    "tr",
                    element("th", short, scope="row"),
                    *(element("td", c, class_="w" if c == "control" else None) for c in cells),
                    class_="control",
                )
            )
    told = "Click a heading to sort. Below the trials stand the controls for their accuracy."
    return join(
        element("p", told, class_="quiet"),
        scrolled(
            "All trials",
            element(
                "table",
                element("thead", element("tr", *head)),
                element("tbody", *body),
                element("tbody", *controls),
                class_="trials",
            ),
        ),
    )


def _sort_head(words: str, kind: str, first: str | None = None, title: str | None = None) -> Markup:
    return element(
        "th",
        element("button", words, type="button", title=title),
        scope="col",
        data_kind=kind,
        data_first=first,
        class_="w" if kind == "word" else None,
    )


def _trial_row(
    view: SweepView,
    trial: TrialView,
    measures: Sequence[str],
    compared: Sequence[str],
    paths: Sequence[str],
    settings: Mapping[str, Any],
) -> Markup:
    role = role_of(view, trial)
    sign = {"champion": " ★", "front": " +"}.get(role, "")
    name = join(trial_link(trial.name) if trial.reports else trial.name, sign)
    if trial.of:
        name = join(name, f" (seed {settings.get('training.seed', '-')} of {trial.of})")
    cells = [element("td", trial.state.lower(), class_="w", data_v=trial.state)]
    for measure in measures:
        cells.append(_value(measure_cell(trial, measure), trial.measure(measure)))
        if measure == "gain":
            cells.append(element("td", show_interval(trial.gain_interval)))
    cells += [element("td", show_interval(trial.interval(control))) for control in compared]
    for path in paths:
        value = settings.get(path)
        words = isinstance(value, str | bool)
        shown = show_setting(path, value)
        cells.append(
            element("td", shown, class_="w", data_v=shown) if words else _value(shown, value)
        )
    return element(
        "tr",
        element("th", name, scope="row", data_v=trial.name),
        *cells,
        class_=f"{role} {trial.state}",
        data_trial=trial.name,
    )


def _value(shown: str, value: Any) -> Markup:
    known = value is not None and not (isinstance(value, float) and math.isnan(value))
    return element(
        "td",
        shown,
        data_v=f"{value:.6g}"
        if known and shown != "-" and isinstance(value, int | float)
        else None,
    )


def parallel(figures: Figures) -> Markup | None:
    """Settings and measures side by side."""
    if figures.parallel is None:
        return None
    return element(
        "figure",
        scrolled("Parallel coordinates", svg.parallel(figures.parallel)),
        element(
            "figcaption",
            "One line per completed trial; stronger lines have more gain. "
            "Measures in italics. Point at a line, or at a row of the table, to follow it.",
        ),
        class_="wide",
    )


def curves(view: SweepView, figures: Figures) -> Markup | None:
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
                scrolled(figures.learning.title, svg.curves(figures.learning)),
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
                svg.curves(curves, small=True),
            )
            for curves in figures.forgetting
        ]
        parts += [
            element("h3", "Scores of each task through the sequence"),
            element("p", told, class_="quiet"),
            element("div", *charts, class_="charts small"),
        ]
    return join(*parts)


# --- matrices ------------------------------------------------------------------------------------


def matrices(view: SweepView) -> Markup | None:
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


def _heat_map(view: SweepView, matrix: AccuracyMatrix) -> Markup:
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


def _log(trial: TrialView, folder: Path) -> Path:
    """Where a trial's log is, or was when the sweep's folder was elsewhere."""
    path = log_path(trial, folder)
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def failed(view: SweepView, folder: Path) -> Markup | None:
    """Trials that failed or were stopped, and why."""
    rows = []
    for trial in view.trials:
        if trial.state in {"FAILED", "STOPPED"}:
            log = _log(trial, folder) if trial.state == "FAILED" else "-"
            reason = trial.reason or "no reason was recorded"
            rows.append(
                (trial.state, [trial.name, trial.state.lower(), reason, element("code", log)])
            )
    if not rows:
        return None
    return plain_table(
        "", ["trial", "state", "why", "log, in the sweep's folder"], rows, words=(1, 2, 3)
    )
