"""What the report's pictures show, as numbers: the page and the PNG files draw the same ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.experiment import is_number
from orchestrator.formatting import show_setting
from orchestrator.objectives import NATURAL_DIRECTIONS, Direction, front
from orchestrator.sweep_view import CONTROLS, SweepView, TrialView

COLOURS = ("#009E73", "#0072B2", "#D55E00", "#B5528C", "#C88A00", "#3A8FBF")
"""For the trials that stand out, the champion first (after Okabe and Ito, some darker)."""
MOST_LINES = 40
"""A picture of curves draws no more trials than this, those that stand out first."""
_MOST_POINTS = 150

MEASURE_WORDS = {
    "forgetting": "forgetting",
    "probe_drift": "probe drift (nats)",
    "cost_s": "device seconds",
    "cost_tokens": "training tokens",
}


def measure_words(name: str) -> str:
    """A measure as an axis names it."""
    return MEASURE_WORDS.get(name, name.replace("_", " "))


@dataclass(frozen=True)
class Dot:
    """One trial of a trade-off."""

    name: str
    x: float
    y: float
    interval: tuple[float, float] | None
    """Of y."""
    role: str
    """champion, front, trial, or repeat (another trial with a fresh seed)."""
    group: str
    """The adapter's kind: its marker."""


@dataclass(frozen=True)
class TradeOff:
    """Two measures against each other."""

    x: str
    y: str
    dots: tuple[Dot, ...]
    best: tuple[str, ...]
    """The trials that no other beats in these two measures, by x."""
    missing: int
    """Trials that lack one of the two."""
    base: bool
    """Whether the untouched base stands at (0, 0)."""


@dataclass(frozen=True)
class Series:
    """One line of a picture."""

    name: str
    points: tuple[tuple[float, float], ...]
    """NaN in y breaks the line."""
    role: str
    """A trial's role, or control."""
    colour: int | None
    """Index into `COLOURS`, None for the many in the background."""


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    ticks: tuple[str, ...] = ()
    """Names of x = 0, 1, ... where x counts things; empty where it is a number."""
    marks: tuple[tuple[float, str], ...] = ()
    """Upright lines with a name, e.g. where a task begins."""
    logarithmic: bool = False


@dataclass(frozen=True)
class Axis:
    """One upright axis of the parallel coordinates."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    """Place from 0 (bottom) to 1 and text."""
    searched: bool
    """A setting; otherwise a measure."""


@dataclass(frozen=True)
class Parallel:
    """Settings and measures of every trial side by side."""

    axes: tuple[Axis, ...]
    lines: tuple[tuple[Series, float], ...]
    """Points are (axis, place), NaN where the trial has no value; the number is the place of its
    gain from 0 to 1, NaN without one."""


@dataclass(frozen=True)
class Figures:
    """Every picture of a report."""

    trade_offs: tuple[TradeOff, ...]
    learning: Curves | None
    forgetting: tuple[Curves, ...]
    parallel: Parallel | None
    colours: Mapping[str, int] = field(default_factory=dict)
    """The trials that stand out, and their colours in every picture."""
    undrawn: int = 0
    """Trials that the curves leave out."""


def make_figures(view: SweepView) -> Figures:
    """The pictures of a sweep, as far as it has come.

    Args:
        view: The sweep.

    Returns:
        The figures; a picture without anything to show is missing.
    """
    colours = _outstanding(view)
    drawn = _drawn(view, colours)
    begun = sum(bool(trial.reports) for trial in view.trials)
    forgetting = [_forgetting(view, drawn, colours, task) for task in range(len(view.tasks))]
    return Figures(
        trade_offs=tuple(_trade_offs(view)),
        learning=_learning(view, drawn, colours),
        forgetting=tuple(curves for curves in forgetting if curves is not None),
        parallel=_parallel(view, colours),
        colours=colours,
        undrawn=begun - len(drawn),
    )


def role_of(view: SweepView, trial: TrialView) -> str:
    """champion, front, repeat or trial."""
    if trial.name == view.champion:
        return "champion"
    if trial.name in view.front:
        return "front"
    return "repeat" if trial.of else "trial"


def by_merit(view: SweepView) -> list[TrialView]:
    """Champion, front, then the others by falling gain; trials without a gain last."""
    order = {"champion": 0, "front": 1, "trial": 2, "repeat": 2}

    def rank(trial: TrialView) -> tuple[int, float]:
        gain = trial.measure("gain")
        return order[role_of(view, trial)], math.inf if math.isnan(gain) else -gain

    return sorted(view.trials, key=rank)


def _outstanding(view: SweepView) -> dict[str, int]:
    """Champion and front; while there is none, the trials with the largest gain so far."""
    ranked = [trial for trial in by_merit(view) if trial.of is None]
    named = [trial.name for trial in ranked if role_of(view, trial) in {"champion", "front"}]
    if not named:
        named = [trial.name for trial in ranked if trial.reports][:3]
    # The first colour is the champion's alone.
    first = 0 if view.champion else 1
    return {name: first + i for i, name in enumerate(named[: len(COLOURS) - first])}


def _drawn(view: SweepView, colours: Mapping[str, int]) -> list[TrialView]:
    """The trials that the curves show, background first so that the others lie above it."""
    begun = [trial for trial in by_merit(view) if trial.reports]
    begun.sort(key=lambda trial: trial.name not in colours)
    return begun[:MOST_LINES][::-1]


def _trade_offs(view: SweepView) -> list[TradeOff]:
    made = []
    for x in ("forgetting", "probe_drift"):
        dots = [_dot(view, trial, x) for trial in view.trials if trial.state == "COMPLETE"]
        whole = [dot for dot in dots if not math.isnan(dot.x) and not math.isnan(dot.y)]
        if not whole:
            continue
        objectives: dict[str, Direction] = {"gain": "max", x: NATURAL_DIRECTIONS[x]}
        values = {dot.name: {"gain": dot.y, x: dot.x} for dot in whole if dot.role != "repeat"}
        places = {dot.name: dot.x for dot in whole}
        best = sorted(front(values, objectives), key=lambda name: places[name])
        made.append(TradeOff(x, "gain", tuple(whole), tuple(best), len(dots) - len(whole), True))
    return made


def _dot(view: SweepView, trial: TrialView, x: str) -> Dot:
    interval = trial.gain_interval
    whole = interval is not None and all(bound is not None for bound in interval)
    return Dot(
        trial.name,
        trial.measure(x),
        trial.measure("gain"),
        (float(interval[0]), float(interval[1])) if interval and whole else None,
        role_of(view, trial),
        str(view.settings(trial).get("method.adapter.kind", "")),
    )


def _series(
    view: SweepView,
    trial: TrialView,
    colours: Mapping[str, int],
    points: Sequence[tuple[float, float]],
) -> Series:
    return Series(trial.name, tuple(points), role_of(view, trial), colours.get(trial.name))


def _learning(
    view: SweepView, drawn: Sequence[TrialView], colours: Mapping[str, int]
) -> Curves | None:
    series = []
    for trial in drawn:
        points = _thinned(trial.losses)
        if points:
            series.append(_series(view, trial, colours, points))
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
    view: SweepView, drawn: Sequence[TrialView], colours: Mapping[str, int], task: int
) -> Curves | None:
    series = []
    for trial in drawn:
        matrix = view.matrix(trial)
        if matrix is not None and matrix.tasks_learnt:
            points = [(float(stage), row[task]) for stage, row in enumerate(matrix.rows)]
            if any(not math.isnan(score) for _, score in points):
                series.append(_series(view, trial, colours, points))
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


# --- parallel coordinates ------------------------------------------------------------------------


def _logarithmic(domain: Mapping[str, Any]) -> bool:
    return "log_uniform" in domain or any(map(_logarithmic, domain.get("alternatives") or ()))


def _parallel(view: SweepView, colours: Mapping[str, int]) -> Parallel | None:
    trials = [trial for trial in view.searched if trial.state == "COMPLETE"]
    if len(trials) < 2:
        return None
    settings = {trial.name: view.settings(trial) for trial in trials}
    space = (view.experiment.get("search") or {}).get("space") or {}
    axes: list[Axis] = []
    columns: list[list[float]] = []

    def add(label: str, values: list[Any], *, logarithmic: bool, searched: bool) -> None:
        made = _axis(label, values, logarithmic=logarithmic, searched=searched)
        # What every trial shares separates none of them.
        if made is not None:
            axes.append(made[0])
            columns.append(made[1])

    for path in view.searched_settings:
        values = [settings[trial.name].get(path) for trial in trials]
        add(path, values, logarithmic=_logarithmic(space.get(path) or {}), searched=True)
    objectives = view.experiment.get("objectives") or {"gain": "max"}
    for name in dict.fromkeys([*objectives, "accuracy"]):
        values = [trial.measure(name) for trial in trials]
        add(measure_words(name), values, logarithmic=False, searched=False)
    if len(axes) < 2:
        return None
    gains = _places([trial.measure("gain") for trial in trials])
    lines = [
        (
            _series(
                view, trial, colours, [(float(a), column[i]) for a, column in enumerate(columns)]
            ),
            gains[i],
        )
        for i, trial in enumerate(trials)
    ]
    lines.sort(key=lambda line: line[0].colour is not None)
    return Parallel(tuple(axes), tuple(lines))


def _axis(
    label: str, values: list[Any], *, logarithmic: bool, searched: bool
) -> tuple[Axis, list[float]] | None:
    """An axis and each trial's place on it, None when all share one value."""
    numbers = [float(v) for v in values if is_number(v) and not math.isnan(v)]
    known = [v for v in values if v is not None and not (isinstance(v, float) and math.isnan(v))]
    if len({str(v) for v in known}) < 2:
        return None
    if len(numbers) == len(known):
        logarithmic = logarithmic and min(numbers) > 0
        places = _places(
            [float(v) if is_number(v) else math.nan for v in values], logarithmic=logarithmic
        )
        distinct = sorted({v for v in values if is_number(v)})
        shown = distinct if len(distinct) <= 4 else [distinct[0], distinct[-1]]
        at = _places([*shown], logarithmic=logarithmic)
        ticks = tuple((at[i], show_setting(label, value)) for i, value in enumerate(shown))
        return Axis(label, ticks, searched), places
    names = sorted({str(v) for v in known})
    where = {name: i / (len(names) - 1) for i, name in enumerate(names)}
    places = [math.nan if v is None else where[str(v)] for v in values]
    return Axis(label, tuple((where[name], name) for name in names), searched), places


def _places(values: Sequence[float], *, logarithmic: bool = False) -> list[float]:
    """Each value's place between the smallest (0) and the largest (1)."""
    scaled = [math.log(v) if logarithmic and not math.isnan(v) else v for v in values]
    known = [v for v in scaled if not math.isnan(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if high <= low:
        return [math.nan if math.isnan(v) else 0.5 for v in scaled]
    return [(v - low) / (high - low) for v in scaled]
