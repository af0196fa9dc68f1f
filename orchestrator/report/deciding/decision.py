"""What a sweep decides: the pick, by how much over what, what was given up for it, what is open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.readings import reading_words
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.report.deciding.comparisons import (
    Comparison,
    comparisons_of,
    error_parts,
    method_of,
)
from orchestrator.system.formatting import show

FRONT_SHOWN = 6
MOST_WORTHWHILE = 100.0
"""Times as many examples beyond which more of them settle nothing."""


@dataclass(frozen=True)
class GivenUp:
    """A trial of the front that is better in something."""

    trial: str
    method: str
    better: dict[str, float]
    """By measure, its value minus the pick's."""
    worse: dict[str, float]


@dataclass(frozen=True)
class Decision:
    """A sweep's decision."""

    sweep: str
    pick: str | None
    method: str
    settings: dict[str, Any]
    """Of the pick: what the search had set."""
    reason: str
    measures: dict[str, float | None]
    errors: dict[str, float] = field(default_factory=dict[str, float])
    """Of its mean score, the standard errors over `examples`, `seeds` and `orders`; seeds and
    orders as one, `runs`, where they cannot be told apart."""
    comparisons: list[Comparison] = field(default_factory=list[Comparison])
    given_up: list[GivenUp] = field(default_factory=list[GivenUp])
    changes: list[str] = field(default_factory=list[str])
    """What would change the decision, in sentences."""
    cost: dict[str, float] = field(default_factory=dict[str, float])
    open: list[str] = field(default_factory=list[str])
    """What is not settled, and what more budget would settle, in sentences."""
    test: str = ""
    """What the test data say of it."""

    def as_document(self) -> dict[str, Any]:
        """The decision as JSON."""
        return asdict(self)


def decide(view: SweepState, pick: str | None = None, reason: str | None = None) -> Decision:
    """Say what a finished sweep decides.

    Args:
        view: The sweep, with whole reports.
        pick: Another trial than its champion, by another preference.
        reason: Why that one.

    Returns:
        The decision. Without a pick it says why, and what comes nearest.
    """
    chosen = pick if pick is not None else view.champion
    told = reason if reason is not None else view.reason
    cost = {
        "seconds": view.spent.seconds,
        "core_seconds": view.spent.core_seconds,
        "trials": float(len(view.trials)),
        "complete": float(sum(t.state == "COMPLETE" for t in view.trials)),
        "stopped": float(sum(t.state == "STOPPED" for t in view.trials)),
        "failed": float(sum(t.state == "FAILED" for t in view.trials)),
    }
    if chosen is None:
        best = view.best
        nearest = [] if best is None else comparisons_of(view, best)
        return Decision(
            view.name, None, "", {}, told, {}, comparisons=nearest, cost=cost,
            open=_open(view, None, nearest),
        )  # fmt: skip
    trial = view.trial(chosen)
    comparisons = comparisons_of(view, trial)
    return Decision(
        sweep=view.name,
        pick=chosen,
        method=method_of(view, trial),
        settings=dict(trial.overrides),
        reason=told,
        measures=_measures(view, trial),
        errors=error_parts(view, trial),
        comparisons=comparisons,
        given_up=_given_up(view, trial),
        changes=_changes(view, trial),
        cost=cost,
        open=_open(view, trial, comparisons),
        test=_test_words(view, chosen),
    )


def _test_words(view: SweepState, pick: str) -> str:
    """What the test data say of the pick; empty where they were not read for another preference."""
    if pick == view.champion:
        return view.test_words
    reading = view.reading_of(pick)
    return "" if reading is None else reading_words(reading)


def _measures(view: SweepState, trial: TrialRecord) -> dict[str, float | None]:
    """What the verdict took it to measure: means over fresh seeds where it was repeated."""
    repeated = next((f.mean for f in view.finalists if f.trial == trial.name), None)
    found = repeated if repeated is not None else dict(trial.measures)
    return {name: found.get(name) for name in _deciding(view)}


def _deciding(view: SweepState) -> list[str]:
    rule = view.experiment.get("champion") or {}
    names = [
        "gain", *view.experiment.get("objectives", {}), *rule.get("subject_to", {}), "accuracy",
    ]  # fmt: skip
    return list(dict.fromkeys(names))


def _given_up(view: SweepState, trial: TrialRecord) -> list[GivenUp]:
    """What trials of the front have that the pick lacks, the closest in gain first."""
    objectives: Mapping[str, str] = view.experiment.get("objectives", {})
    found: list[GivenUp] = []
    for name in view.front:
        other = view.trial(name)
        differences = {m: other.measure(m) - trial.measure(m) for m in objectives}
        signs = {m: 1.0 if direction == "max" else -1.0 for m, direction in objectives.items()}
        better = {m: d for m, d in differences.items() if signs[m] * d > 0}
        if name != trial.name and better:
            worse = {m: d for m, d in differences.items() if signs[m] * d < 0}
            found.append(GivenUp(name, method_of(view, other), better, worse))
    found.sort(key=lambda one: -view.trial(one.trial).measure("gain"))
    return found[:FRONT_SHOWN]


def _changes(view: SweepState, trial: TrialRecord) -> list[str]:
    """For each objective but the deciding one: which trial a tighter limit would pick."""
    rule = view.experiment.get("champion") or {}
    maximize = str(rule.get("maximize", "gain"))
    told: list[str] = []
    for measure in view.experiment.get("objectives", {}):
        if measure == maximize:
            continue
        sign = 1.0 if NATURAL_DIRECTIONS.get(measure) == "max" else -1.0
        mine = sign * trial.measure(measure)
        better = [view.trial(n) for n in view.front if sign * view.trial(n).measure(measure) > mine]
        order = 1.0 if NATURAL_DIRECTIONS.get(maximize) == "max" else -1.0
        best = max(better, key=lambda t: order * t.measure(maximize), default=None)
        if best is None or math.isnan(best.measure(maximize)):
            continue
        bound = f"{measure} {'>=' if sign > 0 else '<='} {show(best.measure(measure))}"
        told.append(
            f"A limit of {bound} would pick {best.name} ({method_of(view, best)}), with "
            f"{maximize} {show(best.measure(maximize), signed=True)} in place of "
            f"{show(trial.measure(maximize), signed=True)}."
        )
    return told


def _open(
    view: SweepState, trial: TrialRecord | None, comparisons: Sequence[Comparison]
) -> list[str]:
    """What cannot be told yet, and what would tell it."""
    told: list[str] = []
    for comparison in comparisons:
        if comparison.interval is None or not comparison.interval[0] <= 0 <= comparison.interval[1]:
            continue
        half = (comparison.interval[1] - comparison.interval[0]) / 2
        size = abs(comparison.difference)
        times = (half / size) ** 2 if size > 0 else math.inf
        first = "The pick" if trial is not None else "The best trial"
        words = (
            f"{first} and {comparison.other} cannot be told apart on {comparison.examples} examples"
        )
        if times <= MOST_WORTHWHILE:
            told.append(
                f"{words}; a difference of this size would take about {max(2.0, times):.0f} times "
                "as many."
            )
        else:
            told.append(f"{words}, and more of them would hardly help.")
    per = (view.experiment.get("search") or {}).get("per")
    if per is not None:
        choices = (view.experiment["search"]["space"].get(per) or {}).get("choice", ())
        tried = {str(one.overrides.get(per)) for one in view.searched if one.state == "COMPLETE"}
        left = [str(choice) for choice in choices if str(choice) not in tried]
        if left:
            told.append(f"No trial was whole of {', '.join(left)}: they were not compared.")
    if view.verdict is not None and view.verdict.budget is not None:
        told.append("The budget ended the search: a larger one goes on with the same command.")
    if not view.finalists and trial is not None:
        told.append("One seed stands behind it: `finalists.fresh_seeds` repeats the best methods.")
    return told
