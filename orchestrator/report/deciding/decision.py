"""What a sweep decides: the pick, by how much over what, what was given up for it, what is open."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.measures.intervals import gain_interval
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.readings import CONTROLS, reading_words
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.system.formatting import show

Examples = Mapping[str, Sequence[float]]
METHOD_CONTROLS = {"early-stopped-lora": "early-stopped LoRA", "joint": "joint training (LoRA)"}
"""Controls that are trained like any method, by preset."""
FRONT_SHOWN = 6
MOST_WORTHWHILE = 100.0
"""Times as many examples beyond which more of them settle nothing."""


@dataclass(frozen=True)
class Comparison:
    """The pick's mean score minus another's, on the same validation examples."""

    other: str
    """What it is compared with, in words."""
    trial: str | None
    difference: float
    interval: list[float] | None
    """95 %, paired; None where examples are missing on a side."""
    examples: int


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
        nearest = [] if best is None else _comparisons(view, best)
        return Decision(
            view.name, None, "", {}, told, {}, nearest, cost=cost, open=_open(view, None, nearest)
        )
    trial = view.trial(chosen)
    comparisons = _comparisons(view, trial)
    return Decision(
        sweep=view.name,
        pick=chosen,
        method=method_of(view, trial),
        settings=dict(trial.overrides),
        reason=told,
        measures=_measures(view, trial),
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


def method_of(view: SweepState, trial: TrialRecord) -> str:
    """A trial's method in a word or two."""
    settings = view.settings(trial)
    preset = settings.get("method.preset")
    if preset:
        return str(preset)
    adapter, retention = (settings.get(f"method.{part}.kind") for part in ("adapter", "retention"))
    return f"{adapter}" if retention in {None, "none"} else f"{adapter} with {retention}"


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


def _final(view: SweepState, trial: TrialRecord) -> Examples:
    """A trial's final score of each example; the mean over its repetitions where it has some."""
    finalist = next((f for f in view.finalists if f.trial == trial.name), None)
    names = [trial.name] if finalist is None else finalist.repeats
    each = [view.trial(name).per_example for name in names]
    return {
        task: [statistics.fmean(scores) for scores in zip(*(e[task] for e in each), strict=False)]
        for task in view.tasks
        if each and all(e.get(task) for e in each)
    }


def _compared(
    view: SweepState, mine: Examples, other: str, its: Examples, trial: str | None = None
) -> Comparison | None:
    """The pick beside another on the examples that both were scored on; None without any."""
    sizes = {task: min(len(mine.get(task, ())), len(its.get(task, ()))) for task in view.tasks}
    if not sizes or not all(sizes.values()):
        return None
    sides = [[list(side[task][:n]) for task, n in sizes.items()] for side in (mine, its)]
    interval = gain_interval(sides[0], sides[1])
    means = [statistics.fmean(map(statistics.fmean, side)) for side in sides]
    bounds = [interval.low, interval.high]
    return Comparison(other, trial, means[0] - means[1], bounds, sum(sizes.values()))


def _comparisons(view: SweepState, trial: TrialRecord) -> list[Comparison]:
    """Beside the runner-up, or the champion, and every control that was measured."""
    mine, found = _final(view, trial), list[Comparison | None]()
    is_champion = trial.name == view.champion
    rival = view.runner_up if is_champion else view.champion
    if rival is not None:
        second, role = view.trial(rival), "runner-up" if is_champion else "champion"
        words = f"the {role}, {second.name} ({method_of(view, second)})"
        found.append(_compared(view, mine, words, _final(view, second), second.name))
    base = view.everything.get(BASE_TRIAL)
    reports = [] if base is None else [r for r in base.reports if r.row]
    for control, words in CONTROLS.items():
        if control == "majority":
            found.append(_majority(view, trial, words))
            continue
        each = "head_only_per_example" if control == "head_only" else "per_example"
        its: Examples = (getattr(reports[-1], each) or {}) if reports else {}
        found.append(_compared(view, mine, words, its))
    for preset, words in METHOD_CONTROLS.items():
        best = _best_of(view, preset)
        if best is not None and best.name != trial.name:
            told = f"{words}, {best.name}"
            found.append(_compared(view, mine, told, _final(view, best), best.name))
    return [comparison for comparison in found if comparison is not None]


def _majority(view: SweepState, trial: TrialRecord, words: str) -> Comparison | None:
    """As journalled: the labels are with the data. Of a repeated trial, its first repetition."""
    finalist = next((f for f in view.finalists if f.trial == trial.name and f.repeats), None)
    shown = trial if finalist is None else view.trial(finalist.repeats[0])
    mean = statistics.fmean(view.control_scores("majority") or [math.nan])
    interval, own = shown.interval("majority"), shown.measure("accuracy")
    if interval is None or math.isnan(own - mean):
        return None
    return Comparison(words, None, own - mean, interval, sum(view.examples(shown).values()))


def _best_of(view: SweepState, preset: str) -> TrialRecord | None:
    """The trial of a preset with the largest gain."""
    own = [
        trial
        for trial in view.searched
        if trial.state == "COMPLETE"
        and method_of(view, trial) == preset
        and math.isfinite(trial.measure("gain"))
    ]
    return max(own, key=lambda trial: trial.measure("gain"), default=None)


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
