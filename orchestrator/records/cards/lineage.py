"""Which adapter another one came from."""

from __future__ import annotations

from typing import Any

from orchestrator.records.stage_report import DONE
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.spec.experiment import Experiment


def parent_of(
    state: SweepState, trial: TrialRecord, learnt: int, run: Experiment
) -> dict[str, Any] | None:
    """The adapter from which a task was learnt on.

    Args:
        state: The sweep.
        trial: One of its trials.
        learnt: How many tasks the adapter in question has learnt.
        run: What the trial ran.

    Returns:
        `sweep`, `sweep_id` (null where the journal does not say it), `trial` and `learnt`: the
        adapter after the task before, of the trial that trained it; of an extension's first task
        the adapter that it goes on from. Null for the first task of all, for tasks learnt
        jointly, and for the first task of a fresh adapter.
    """
    before, extends = learnt - 1, run.extends
    if before < 1 or run.method.sequence == "joint":
        return None
    if extends is not None and before <= extends.learnt:
        if extends.begin == "fresh":
            return None
        return extends.model_dump(include={"sweep", "sweep_id", "trial", "learnt"})
    return same_as(state, trial, before) or _named(state, trial.name, before)


def same_as(state: SweepState, trial: TrialRecord, learnt: int) -> dict[str, Any] | None:
    """Whose training an adapter is, where another trial had learnt the same before.

    Args:
        state: The sweep.
        trial: One of its trials.
        learnt: How many tasks the adapter in question has learnt.

    Returns:
        As `parent_of`; None where the trial has trained it itself.
    """
    seen, owner = {trial.name}, trial
    while True:
        report = owner.by_stage.get((learnt - 1, DONE))
        taken = None if report is None else report.taken_from
        if taken is None:
            return None if owner is trial else _named(state, owner.name, learnt)
        if "/" in taken:
            sweep, _, name = taken.partition("/")
            return {"sweep": sweep, "sweep_id": None, "trial": name, "learnt": learnt}
        known = state.everything.get(taken)
        if known is None or taken in seen:
            return _named(state, taken, learnt)
        seen.add(taken)
        owner = known


def _named(state: SweepState, trial: str, learnt: int) -> dict[str, Any]:
    return {"sweep": state.name, "sweep_id": state.identity, "trial": trial, "learnt": learnt}
