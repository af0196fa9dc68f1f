"""The accuracy matrix as far as an adapter has come, with intervals and numbers of examples."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.measures.score_interval import score_interval
from orchestrator.records.stage_report import DONE
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord


def task_scores(value: float | None, examples: int | None) -> dict[str, Any]:
    """A score with its 95 % interval and its number of examples, as a card has it."""
    interval = None if value is None else score_interval(value, examples or 0)
    low, high = interval or (None, None)
    return {"value": value, "low": low, "high": high, "examples": examples}


def matrix_so_far(state: SweepState, trial: TrialRecord, learnt: int) -> list[dict[str, Any]]:
    """The rows of a trial's accuracy matrix up to a task.

    Args:
        state: The sweep.
        trial: One of its trials.
        learnt: How many tasks had been learnt in the last row.

    Returns:
        A row for each: `learnt` (0: the untouched base), `task` (learnt last), `scores` by task
        and `probes`. A score that was not measured has a null value.
    """
    matrix, order = state.matrix(trial), state.order_of(trial)
    rows = matrix.rows if matrix is not None else ()
    return [
        {
            "learnt": index,
            "task": order[index - 1] if index else None,
            "scores": {
                task: task_scores(_known(value), _examples(state, trial, index, task, value))
                for task, value in zip(state.tasks, rows[index], strict=True)
            },
            "probes": _probes(state, trial, index),
        }
        for index in range(min(learnt + 1, len(rows)))
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _examples(
    state: SweepState, trial: TrialRecord, learnt: int, task: str, value: float
) -> int | None:
    """How many examples stand behind a cell of a matrix; None where that is not known."""
    later = trial.later.get((learnt, task))
    if later is not None and later.value == value:
        return later.examples
    base = state.everything.get(BASE_TRIAL)
    every = (base.examples if base is not None else None) or {}
    report = trial.by_stage.get((learnt - 1, DONE))
    own = trial.examples if report is None else report.examples
    return (own or {}).get(task, every.get(task)) if _known(value) is not None else None


def _probes(state: SweepState, trial: TrialRecord, learnt: int) -> dict[str, dict[str, float]]:
    """What the probes read after so many tasks; row 0 is the untouched base's."""
    owner = trial if learnt else state.everything.get(BASE_TRIAL, trial)
    report = owner.by_stage.get((learnt - 1, DONE))
    return dict(report.probes or {}) if report is not None else {}
