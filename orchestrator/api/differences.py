"""What differs between two trials or two sweeps: settings, measures, what made them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.scores import flat, mean, paired_interval
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord

_NOT_COMPARED = ("name", "storage", "tracking.uri")
"""Fields of an experiment that say where it is kept, not what it does."""


def diff_trials(
    left: tuple[SweepState, TrialRecord], right: tuple[SweepState, TrialRecord]
) -> dict[str, Any]:
    """The differences of two trials, of one sweep or of two.

    Args:
        left: A sweep and one of its trials.
        right: Another; differences are right minus left.

    Returns:
        `settings` and `provenance` (path to both values, only those that differ), `measures` (name
        to both values and their difference, all that either has), `examples` (on how many of each
        task the measures of both stand; None: all), `scores` (task to the final scores on as many
        `examples`, which are those that both were scored on, and, where they are the same, their
        paired interval), and `interval` of the mean over tasks, None where it cannot be paired.
    """
    (left_view, left_trial), (right_view, right_trial) = left, right
    tasks = [task for task in left_view.tasks if task in right_view.tasks]
    same = {task: _same_examples(left_view, right_view, task) for task in tasks}
    mine, other = _on_the_same(right_trial.per_example, left_trial.per_example)
    scores: dict[str, Any] = {}
    for task in tasks:
        before, after = _final(left_view, left_trial, task), _final(right_view, right_trial, task)
        if task in mine and same[task] and _counts_differ(left_trial, right_trial, task):
            before, after = mean(other[task]), mean(mine[task])
        interval = paired_interval(mine, other, [task]) if same[task] else None
        scores[task] = _pair(before, after) | {
            "examples": len(mine[task]) if task in mine else None, "interval": interval,
        }  # fmt: skip
    whole = left_view.tasks == right_view.tasks and all(same.values())
    known = bool(left_view.sweep_id)  # journals of early versions have none
    one_sweep = left_view is right_view or (known and left_view.sweep_id == right_view.sweep_id)
    return {
        "left": f"{left_view.name}/{left_trial.name}",
        "right": f"{right_view.name}/{right_trial.name}",
        "settings": differing(_settings(left_view, left_trial), _settings(right_view, right_trial)),
        **_measured(left_trial, right_trial, one_sweep=one_sweep),
        "scores": scores,
        "interval": paired_interval(mine, other, tasks) if whole else None,
        "provenance": differing(_made_of(left_view, left_trial), _made_of(right_view, right_trial)),
    }


def _counts_differ(left: TrialRecord, right: TrialRecord, task: str) -> bool:
    """Whether one was scored on fewer examples, as it was screened."""
    return len(left.per_example[task]) != len(right.per_example[task])


def _on_the_same(
    one: Mapping[str, list[float]], other: Mapping[str, list[float]]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Scores of examples, by task, cut to the first ones that both have."""
    counts = {task: min(len(one[task]), len(other[task])) for task in one if task in other}
    return (
        {task: one[task][:count] for task, count in counts.items()},
        {task: other[task][:count] for task, count in counts.items()},
    )


def _made_of(view: SweepState, trial: TrialRecord) -> dict[str, Any]:
    """What the trial follows from besides its settings: hashes, and the versions it ran with."""
    parts = {key: view.provenance.get(key) for key in ("base", "data")}
    names = dict.fromkeys(name for made_with in trial.versions for name in made_with)
    return flat({key: part for key, part in parts.items() if part}) | {
        name: ", then ".join(dict.fromkeys(v[name] for v in trial.versions if name in v))
        for name in names
    }


def diff_sweeps(left: SweepState, right: SweepState) -> dict[str, Any]:
    """The differences of two sweeps: what was asked, and of their best trials.

    Args:
        left: A sweep.
        right: Another.

    Returns:
        The same as `diff_trials` for the champions (or largest gains), with `settings` of the
        whole experiments; measures and scores are empty when one sweep has no finished trial.
    """
    best, other = left.best, right.best
    if best is not None and other is not None:
        document = diff_trials((left, best), (right, other))
    else:
        document = {
            "left": f"{left.name}/-", "right": f"{right.name}/-", "measures": {},
            "examples": {"left": None, "right": None}, "scores": {}, "interval": None,
            "provenance": differing(flat(left.provenance), flat(right.provenance)),
        }  # fmt: skip
    document["settings"] = differing(_asked(left), _asked(right))
    return document


def _asked(view: SweepState) -> dict[str, Any]:
    return {k: v for k, v in flat(view.experiment).items() if k not in _NOT_COMPARED}


def _settings(view: SweepState, trial: TrialRecord) -> dict[str, Any]:
    """What made the trial: its settings and, for two sweeps, model, data and tasks."""
    parts = {part: view.experiment.get(part) for part in ("model", "tasks", "probes", "data")}
    return flat(parts) | (view.settings(trial) if trial.name != BASE_TRIAL else {})


def _same_examples(left: SweepState, right: SweepState, task: str) -> bool:
    """Whether both sweeps scored the task on the same tokens."""
    if left is right:
        return True
    mine = (left.provenance.get("data") or {}).get(task)
    return mine is not None and mine == (right.provenance.get("data") or {}).get(task)


def _final(view: SweepState, trial: TrialRecord, task: str) -> float:
    matrix = view.matrix(trial)
    if matrix is None or (not matrix.tasks_learnt and trial.name != BASE_TRIAL):
        return math.nan
    return matrix.rows[-1][matrix.tasks.index(task)]


def _measured(left: TrialRecord, right: TrialRecord, *, one_sweep: bool) -> dict[str, Any]:
    """The measures of both, and on how many examples of each task they stand."""
    counts, read = [left.examples, right.examples], TrialRecord.measure
    if counts[0] != counts[1] and one_sweep and left.is_searched and right.is_searched:
        # One was scored whole since: the search has compared them on the same examples.
        fewest = min((each for each in counts if each), key=lambda each: sum(each.values()))
        counts, read = [fewest, fewest], TrialRecord.searched_measure
    pairs = {name: _pair(read(left, name), read(right, name)) for name in NATURAL_DIRECTIONS}
    return {
        "measures": {
            name: pair
            for name, pair in pairs.items()
            if not (math.isnan(pair["left"]) and math.isnan(pair["right"]))
        },
        "examples": {"left": counts[0], "right": counts[1]},
    }


def _pair(left: float, right: float) -> dict[str, float]:
    return {"left": left, "right": right, "difference": right - left}


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted path, both values of what is not the same; None where there is none."""
    paths = dict.fromkeys([*left, *right])
    return {
        path: {"left": left.get(path), "right": right.get(path)}
        for path in paths
        if left.get(path) != right.get(path)
    }
