"""Which trials a report shows one by one: of many, the front, the finalists and a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from orchestrator.measures.objectives import Direction
from orchestrator.measures.pareto import front_ranks
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.report.trial_roles import by_merit

MOST = 120
"""A page of more trials is read by no one: its marks lie on each other, its lines are one grey."""
_MOST_OF_FRONT = 80


@dataclass(frozen=True)
class Shown:
    """A sweep, as if it had only the trials that are shown."""

    view: SweepState
    words: str
    """Which these are; empty where all are shown."""


def shown_trials(view: SweepState) -> Shown:
    """Choose the trials that a report shows one by one.

    Args:
        view: The sweep.

    Returns:
        All of at most `MOST` trials. Of more: champion, runner-up, finalists with their
        repetitions, the front (of a large one the largest gains), and of the others every so many
        by merit, so that the sample spans good and bad.
    """
    trials = by_merit(view)
    if len(trials) <= MOST:
        return Shown(view, "")
    finalists = [name for one in view.finalists for name in (one.trial, *one.repeats)]
    front = _front(view, trials)
    named = [view.champion, view.runner_up, *finalists, *front[:_MOST_OF_FRONT]]
    kept = dict.fromkeys(name for name in named if name)
    rest = [trial.name for trial in trials if trial.name not in kept]
    room = max(0, MOST - len(kept))
    sample = [rest[i * len(rest) // room] for i in range(min(room, len(rest)))]
    names = {*kept, *sample}
    every = {
        name: trial
        for name, trial in view.everything.items()
        if name in names or name == BASE_TRIAL
    }
    words = f"Shown of {len(trials):,} trials: the front ({len(front):,} trials"
    if len(front) > _MOST_OF_FRONT:
        words += f", of which the {_MOST_OF_FRONT} of the largest gain"
    words += f"), the finalists, and {len(sample)} of the others, taken evenly from best to worst."
    words += f" All: `orchestrate runs list {view.name} --csv`, or `orchestrate ui`."
    return Shown(replace(view, everything=every), words)


def _front(view: SweepState, trials: list[TrialRecord]) -> list[str]:
    """The front in order of merit; while there is no verdict, of the whole trials so far."""
    if view.ended:
        names = set(view.front)
        return [trial.name for trial in trials if trial.name in names]
    objectives: dict[str, Direction] = dict(view.experiment.get("objectives") or {})
    whole = [
        trial
        for trial in trials
        if trial.is_searched
        and objectives
        and all(math.isfinite(trial.searched_measure(name)) for name in objectives)
    ]
    values = [{name: trial.searched_measure(name) for name in objectives} for trial in whole]
    ranks = front_ranks(values, objectives) if whole else []
    return [trial.name for trial, rank in zip(whole, ranks, strict=True) if rank == 0]
