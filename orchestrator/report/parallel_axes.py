"""Settings and measures of the trials as parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.records.sweep_state import SweepState
from orchestrator.report.figures import Axis, Parallel, measure_words
from orchestrator.report.trial_roles import trial_series
from orchestrator.system.formatting import show_setting
from orchestrator.system.strict_json import is_number


def _logarithmic(domain: Mapping[str, Any]) -> bool:
    return "log_uniform" in domain or any(map(_logarithmic, domain.get("alternatives") or ()))


def parallel_coordinates(view: SweepState, colours: Mapping[str, int]) -> Parallel | None:
    """Complete trials on an axis for each setting and measure that differs."""
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
            trial_series(
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
