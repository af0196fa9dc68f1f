"""The figures of a sweep: trade-offs, losses by step, scores by tasks learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from orchestrator.measures.objectives import NATURAL_DIRECTIONS, Direction, front
from orchestrator.records.readings import CONTROLS
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.report.figures import COLOURS, Curves, Dot, Figures, Series, TradeOff
from orchestrator.report.parallel_axes import parallel_coordinates
from orchestrator.report.shown_trials import shown_trials
from orchestrator.report.trial_roles import by_merit, role_of, trial_series

MOST_LINES = 40
"""A picture of curves draws no more trials than this, those that stand out first."""
_MOST_POINTS = 150


def make_figures(view: SweepState) -> Figures:
    """The pictures of a sweep, as far as it has come.

    Args:
        view: The sweep.

    Returns:
        The figures; a picture without anything to show is missing. Of many trials they show some,
        see `shown_trials`.
    """
    everything, view = view, shown_trials(view).view
    colours = _outstanding(view)
    drawn = _drawn(view, colours)
    begun = sum(bool(trial.reports) for trial in everything.trials)
    forgetting = [_forgetting(view, drawn, colours, task) for task in range(len(view.tasks))]
    return Figures(
        trade_offs=tuple(_trade_offs(view)),
        learning=_learning(view, drawn, colours),
        forgetting=tuple(curves for curves in forgetting if curves is not None),
        parallel=parallel_coordinates(view, colours),
        colours=colours,
        undrawn=begun - len(drawn),
    )


def _outstanding(view: SweepState) -> dict[str, int]:
    """Champion and front; while there is none, the trials with the largest gain so far."""
    ranked = [trial for trial in by_merit(view) if trial.of is None]
    named = [trial.name for trial in ranked if role_of(view, trial) in {"champion", "front"}]
    if not named:
        named = [trial.name for trial in ranked if trial.reports][:3]
    # The first colour is the champion's alone.
    first = 0 if view.champion else 1
    return {name: first + i for i, name in enumerate(named[: len(COLOURS) - first])}


def _drawn(view: SweepState, colours: Mapping[str, int]) -> list[TrialRecord]:
    """The trials that the curves show, background first so that the others lie above it."""
    begun = [trial for trial in by_merit(view) if trial.reports]
    begun.sort(key=lambda trial: trial.name not in colours)
    return begun[:MOST_LINES][::-1]


def _trade_offs(view: SweepState) -> list[TradeOff]:
    made = []
    for x in ("forgetting", "probe_drift"):
        dots = [_dot(view, trial, x) for trial in _comparable(view)]
        whole = [dot for dot in dots if not math.isnan(dot.x) and not math.isnan(dot.y)]
        if not whole:
            continue
        objectives: dict[str, Direction] = {"gain": "max", x: NATURAL_DIRECTIONS[x]}
        values = {dot.name: {"gain": dot.y, x: dot.x} for dot in whole if dot.role != "repeat"}
        places = {dot.name: dot.x for dot in whole}
        best = sorted(front(values, objectives), key=lambda name: places[name])
        made.append(TradeOff(x, "gain", tuple(whole), tuple(best), len(dots) - len(whole), True))
    return made


def _screened(view: SweepState) -> bool:
    """Whether the search has scored its trials on fewer examples than the verdict stands on."""
    return any(map(view.is_screened, view.trials))


def _comparable(view: SweepState) -> list[TrialRecord]:
    """The whole trials that are measured on the same examples."""
    whole = [trial for trial in view.trials if trial.state == "COMPLETE"]
    return [trial for trial in whole if trial.of is None] if _screened(view) else whole


def _dot(view: SweepState, trial: TrialRecord, x: str) -> Dot:
    # Intervals may stand on more examples than the dots that are compared.
    screened = _screened(view)
    measure = trial.searched_measure if screened else trial.measure
    interval = None if screened else trial.gain_interval
    whole = interval is not None and all(bound is not None for bound in interval)
    return Dot(
        trial.name,
        measure(x),
        measure("gain"),
        (float(interval[0]), float(interval[1])) if interval and whole else None,
        role_of(view, trial),
        str(view.settings(trial).get("method.adapter.kind", "")),
    )


def _learning(
    view: SweepState, drawn: Sequence[TrialRecord], colours: Mapping[str, int]
) -> Curves | None:
    series = []
    for trial in drawn:
        points = _thinned(trial.losses)
        if points:
            series.append(trial_series(view, trial, colours, points))
    if not series:
        return None
    values = [y for line in series for _, y in line.points if not math.isnan(y)]
    if not values:
        return None
    steps = max((trial.task_steps for trial in drawn), key=lambda found: sum(found.values()))
    marks, before = [], 0
    for task, name in enumerate(view.tasks):
        if task in steps:
            marks.append((before + 0.5, name))
            before += steps[task]
    return Curves(
        "Training loss by step", "optimiser step", "loss (nats per scored token)", tuple(series),
        marks=tuple(marks), logarithmic=min(values) > 0 and max(values) > 20 * min(values),
    )  # fmt: skip


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `_MOST_POINTS` points, each the mean of as many steps in a row."""
    width = math.ceil(len(points) / _MOST_POINTS)
    if width <= 1:
        return [(float(x), y) for x, y in points]
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _forgetting(
    view: SweepState, drawn: Sequence[TrialRecord], colours: Mapping[str, int], task: int
) -> Curves | None:
    series = []
    for trial in drawn:
        matrix = view.matrix(trial)
        if matrix is not None and matrix.tasks_learnt:
            points = [(float(stage), row[task]) for stage, row in enumerate(matrix.rows)]
            if any(not math.isnan(score) for _, score in points):
                series.append(trial_series(view, trial, colours, points))
    if not series:
        return None
    last = float(len(view.tasks))
    for control, words in (*CONTROLS.items(), ("chance", "chance")):
        score = view.control_scores(control)[task]
        if not math.isnan(score):
            series.append(Series(words, ((0.0, score), (last, score)), "control", None))
    return Curves(
        view.tasks[task], "learnt so far", "score", tuple(series), ticks=("base", *view.tasks),
        marks=((task + 1.0, "learnt here"),),
    )  # fmt: skip
