"""The course of a search: what it had found by when, what was stopped where, what mattered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.measures.objectives import Direction, dominates
from orchestrator.measures.pareto import hypervolume
from orchestrator.records.stage_report import DONE
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.report.deciding.comparisons import method_of
from orchestrator.report.figures import Curves, Series
from orchestrator.report.tables import Row, Table, first_rows
from orchestrator.system.formatting import show, show_duration, show_interval

FEWEST = 8
"""Trials of a method below which nothing is said of its knobs."""


@dataclass(frozen=True)
class Step:
    """A trial that has ended, and what was known then."""

    spent: float
    """Device seconds of all trials that had ended by then."""
    trial: TrialRecord
    front: tuple[str, ...]
    volume: float


def course(view: SweepState) -> list[Step]:
    """What the search knew after each of its trials.

    Args:
        view: The sweep.

    Returns:
        A step for each searched trial that has ended, in that order. The hypervolume reaches from
        the worst value that a trial of the front has ever had in each objective.
    """
    objectives = _objectives(view)
    ended = [t for t in view.searched if t.over and t.ended is not None and t.reports]
    ended.sort(key=lambda trial: trial.ended or 0.0)
    known: dict[str, dict[str, float]] = {}
    values = {t.name: _values(t, objectives) for t in ended}
    whole = [v for v in values.values() if all(map(math.isfinite, v.values()))]
    if not objectives or not whole:
        return []
    # A tenth of the range below the worst, so that the ends of the front count as well.
    worst = {name: _worst([v[name] for v in whole], better) for name, better in objectives.items()}
    steps: list[Step] = []
    spent = volume = 0.0
    for trial in ended:
        spent += trial.reports[-1].seconds
        own = values[trial.name]
        # What was dominated once stays so: a trial is compared with a front, not with all.
        if all(map(math.isfinite, own.values())) and not any(
            dominates(other, own, objectives) for other in known.values()
        ):
            known = {
                n: other for n, other in known.items() if not dominates(own, other, objectives)
            }
            known[trial.name] = own
            volume = hypervolume(list(known.values()), objectives, worst)
        steps.append(Step(spent, trial, tuple(known), volume))
    return steps


def _objectives(view: SweepState) -> dict[str, Direction]:
    return dict(view.experiment.get("objectives") or {})


def _values(trial: TrialRecord, objectives: Mapping[str, Direction]) -> dict[str, float]:
    return {name: trial.searched_measure(name) for name in objectives}


def _worst(values: Sequence[float], better: Direction) -> float:
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 1e-6
    return low - room if better == "max" else high + room


def volume_curve(steps: Sequence[Step]) -> Curves | None:
    """The hypervolume over what the trials have cost; None of fewer than two trials."""
    most = max((step.volume for step in steps), default=0.0)
    if len(steps) < 2 or most <= 0.0:
        return None
    points: list[tuple[float, float]] = [(0.0, 0.0)]
    for step in steps:
        minutes = step.spent / 60
        points += [(minutes, points[-1][1]), (minutes, step.volume / most)]
    line = Series("all trials", tuple(points), "champion", 0)
    return Curves(
        "Hypervolume over compute", "device minutes of the trials that have ended",
        "share of the last hypervolume", (line,),
    )  # fmt: skip


def front_over_time(view: SweepState, steps: Sequence[Step]) -> Table | None:
    """When the front changed, who came and who went."""
    objectives = _objectives(view)
    rows: list[Row] = []
    before: tuple[str, ...] = ()
    for step in steps:
        if step.front != before:
            gone = ", ".join(name for name in before if name not in step.front) or "-"
            found = [show(step.trial.searched_measure(m), signed=True) for m in objectives]
            method = method_of(view, step.trial)
            spent = show_duration(step.spent)
            rows.append(("", [step.trial.name, method, spent, *found, gone, len(step.front)]))
            before = step.front
    heads = ["trial", "method", "device time spent", *objectives, "pushed off", "on the front"]
    return Table("When the front changed", heads, rows, words=(1, 2, 3 + len(objectives))) if rows \
        else None  # fmt: skip


def stopped_early(view: SweepState) -> Table | None:
    """What was stopped early, where, and by how much it was behind."""
    rows: list[Row] = []
    for trial in view.searched:
        stop = trial.stop
        if stop is None:
            continue
        place = stop.task if stop.fraction == DONE else f"{stop.fraction:.0%} of {stop.task}"
        rival = stop.rival or "the limit"
        found = [show(stop.difference, signed=True), show_interval(stop.interval)]
        rows.append(
            ("STOPPED", [trial.name, method_of(view, trial), place, stop.measure, rival, *found])
        )
    heads = ["trial", "method", "after", "behind in", "of", "by", "interval"]
    rows, more = first_rows(rows)
    return (
        Table("Stopped early" + (f". {more}" if more else ""), heads, rows, words=(1, 2, 3, 4, 6))
        if rows
        else None
    )


def knobs(view: SweepState) -> Table | None:
    """How each knob of each method goes with each objective, over its whole trials.

    Args:
        view: The sweep.

    Returns:
        Of a number, Spearman's rank correlation, from -1 to 1: positive means that larger values of
        the knob came with better values of the objective. Of a choice, its best value by the mean,
        and the share of the variance that it explains (eta squared). None where no method has
        `FEWEST` whole trials.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for trial in view.searched:
        if trial.state == "COMPLETE":
            groups.setdefault(method_of(view, trial), []).append(trial)
    objectives = _objectives(view)
    rows: list[Row] = []
    for method, trials in groups.items():
        if len(trials) < FEWEST:
            continue
        for path in dict.fromkeys(path for trial in trials for path in trial.overrides):
            having = [trial for trial in trials if path in trial.overrides]
            values = [trial.overrides[path] for trial in having]
            if len(having) < FEWEST or len(set(map(repr, values))) < 2:
                continue
            shown = [_goes_with(values, having, name, objectives[name]) for name in objectives]
            rows.append(("", [method, path, len(having), *shown]))
    heads = ["method", "knob", "trials", *objectives]
    words = (1, *range(3, 3 + len(objectives)))
    return Table("Knobs and objectives", heads, rows, words=words) if rows else None


def _goes_with(
    values: Sequence[Any], trials: Sequence[TrialRecord], measure: str, better: Direction
) -> str:
    sign = 1.0 if better == "max" else -1.0
    pairs = [(v, sign * t.searched_measure(measure)) for v, t in zip(values, trials, strict=True)]
    known = [(value, found) for value, found in pairs if math.isfinite(found)]
    if len(known) < FEWEST or len({found for _, found in known}) < 2:
        return "-"
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v, _ in known)
    if numbers and len({value for value, _ in known}) > 2:
        from scipy.stats import spearmanr  # pyright: ignore[reportMissingTypeStubs]

        found: Any = spearmanr([value for value, _ in known], [one for _, one in known])
        return f"{float(found.statistic):+.2f}"
    means: dict[str, list[float]] = {}
    for value, one in known:
        means.setdefault(str(value), []).append(one)
    everything = [one for _, one in known]
    mean = sum(everything) / len(everything)
    between = sum(len(own) * (sum(own) / len(own) - mean) ** 2 for own in means.values())
    share = between / sum((one - mean) ** 2 for one in everything)
    best = max(means, key=lambda value: sum(means[value]) / len(means[value]))
    return f"{best} ({share:.0%})"


def spent_by_method(view: SweepState) -> Table | None:
    """What each method has cost, and how its trials ended; None of a single method."""
    cost: dict[str, float] = {}
    ends: dict[str, Counter[str]] = {}
    for trial in view.searched:
        if trial.reports:
            method = method_of(view, trial)
            cost[method] = cost.get(method, 0.0) + trial.reports[-1].seconds
            ends.setdefault(method, Counter())[trial.state] += 1
    if len(ends) < 2:
        return None
    states = ("COMPLETE", "STOPPED", "FAILED")
    rows: list[Row] = [
        ("", [method, sum(own.values()), *(own[state] for state in states),
              show_duration(cost[method])])
        for method, own in ends.items()
    ]  # fmt: skip
    heads = ["method", "trials", *(state.lower() for state in states), "device time"]
    return Table("Compute by method", heads, rows)
