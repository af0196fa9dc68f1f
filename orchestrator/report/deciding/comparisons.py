"""A trial beside the others and the controls of its sweep, and how sure the differences are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.measures.intervals import example_error, gain_interval
from orchestrator.measures.repetitions import Run, difference_error, spread_over
from orchestrator.records.readings import CONTROLS
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord

Examples = Mapping[str, Sequence[float]]
METHOD_CONTROLS = {"early-stopped-lora": "early-stopped LoRA", "joint": "joint training (LoRA)"}
"""Controls that are trained like any method, by preset."""


@dataclass(frozen=True)
class Comparison:
    """A trial's mean score minus another's, on the same validation examples."""

    other: str
    """What it is compared with, in words."""
    trial: str | None
    difference: float
    interval: list[float] | None
    """95 %, paired, over examples, and over seeds and orders where some trial was repeated; None
    where examples are missing on a side."""
    examples: int


def method_of(view: SweepState, trial: TrialRecord) -> str:
    """A trial's method in a word or two."""
    preset, adapter, retention = view.method(trial)
    if preset:
        return preset
    return f"{adapter}" if retention in {None, "none"} else f"{adapter} with {retention}"


def error_parts(view: SweepState, trial: TrialRecord) -> dict[str, float]:
    """How far each source leaves a trial's mean gain in doubt.

    Args:
        view: The sweep, with whole reports.
        trial: One of its trials.

    Returns:
        Standard errors over `examples`, `seeds` and `orders`; `runs` for seeds and orders together
        where they cannot be told apart. Without what is not known.
    """
    found: dict[str, float] = {}
    mine, before = _final(view, trial), _of_base(view, "per_example")
    sizes = {task: min(len(mine.get(task, ())), len(before.get(task, ()))) for task in view.tasks}
    if sizes and all(sizes.values()):
        sides = [[list(side[task][:n]) for task, n in sizes.items()] for side in (mine, before)]
        found["examples"] = example_error(sides[0], sides[1])
    groups, runs = _groups(view), _runs(view, trial)
    spread = spread_over(groups.values())
    if spread is None:
        return found
    error = spread.of_mean([run.order for run in runs])
    orders = {run.order for group in groups.values() for run in group}
    if spread.order_deviation is not None:
        found["orders"] = math.sqrt(error.orders)
    together = spread.order_deviation is None and len(orders) > 1
    found["runs" if together else "seeds"] = math.sqrt(error.seeds)
    return found


def _groups(view: SweepState) -> dict[str, list[Run]]:
    """The repetitions of each finalist."""
    return {
        finalist.trial: [_run(view, view.trial(name)) for name in finalist.repeats]
        for finalist in view.finalists
    }


def _runs(view: SweepState, trial: TrialRecord) -> list[Run]:
    """What a trial's score is a mean over: its repetitions, or itself."""
    return _groups(view).get(trial.name) or [_run(view, trial)]


def _run(view: SweepState, trial: TrialRecord) -> Run:
    own = (view.experiment.get("training") or {}).get("seed", 0)
    seed = trial.overrides.get("training.seed", own)
    return Run(tuple(view.order_of(trial)), int(seed), trial.measure("gain"))


def _of_base(view: SweepState, scores: str) -> Examples:
    """What the untouched base scored on each example, by task."""
    base = view.everything.get(BASE_TRIAL)
    reports = [] if base is None else [report for report in base.reports if report.row]
    return (getattr(reports[-1], scores) or {}) if reports else {}


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
    view: SweepState,
    mine: tuple[TrialRecord, Examples],
    words: str,
    its: tuple[TrialRecord | None, Examples],
) -> Comparison | None:
    """A trial beside another on the examples that both were scored on; None without any."""
    (trial, own), (other, examples) = mine, its
    sizes = {task: min(len(own.get(task, ())), len(examples.get(task, ()))) for task in view.tasks}
    if not sizes or not all(sizes.values()):
        return None
    sides = [[list(side[task][:n]) for task, n in sizes.items()] for side in (own, examples)]
    groups = _groups(view)
    theirs = [] if other is None else _runs(view, other)
    runs = difference_error(_runs(view, trial), theirs, list(groups.values()))
    interval = gain_interval(sides[0], sides[1], runs=runs)
    means = [statistics.fmean(map(statistics.fmean, side)) for side in sides]
    bounds = [interval.low, interval.high]
    name = None if other is None else other.name
    return Comparison(words, name, means[0] - means[1], bounds, sum(sizes.values()))


def comparisons_of(view: SweepState, trial: TrialRecord) -> list[Comparison]:
    """A trial beside the runner-up, or the champion, and every control that was measured.

    Args:
        view: The sweep, with whole reports.
        trial: One of its trials.

    Returns:
        Its mean score minus each other's; without what was scored on no common examples.
    """
    mine, found = (trial, _final(view, trial)), list[Comparison | None]()
    is_champion = trial.name == view.champion
    rival = view.runner_up if is_champion else view.champion
    if rival is not None:
        second, role = view.trial(rival), "runner-up" if is_champion else "champion"
        words = f"the {role}, {second.name} ({method_of(view, second)})"
        found.append(_compared(view, mine, words, (second, _final(view, second))))
    for control, words in CONTROLS.items():
        if control == "majority":
            found.append(_majority(view, trial, words))
            continue
        each = "head_only_per_example" if control == "head_only" else "per_example"
        found.append(_compared(view, mine, words, (None, _of_base(view, each))))
    for preset, words in METHOD_CONTROLS.items():
        best = best_of(view, preset)
        if best is not None and best.name != trial.name:
            told = f"{words}, {best.name}"
            found.append(_compared(view, mine, told, (best, _final(view, best))))
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


def best_of(view: SweepState, preset: str) -> TrialRecord | None:
    """The trial of a preset with the largest gain."""
    own = [
        trial
        for trial in view.searched
        if trial.state == "COMPLETE"
        and method_of(view, trial) == preset
        and math.isfinite(trial.measure("gain"))
    ]
    return max(own, key=lambda trial: trial.measure("gain"), default=None)
