"""How a trial stands among the others: champion, front, repeat, and the order of merit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.report.figures import Series


def role_of(view: SweepState, trial: TrialRecord) -> str:
    """champion, front, repeat or trial."""
    if trial.name == view.champion:
        return "champion"
    if trial.name in view.front:
        return "front"
    return "repeat" if trial.of else "trial"


def by_merit(view: SweepState) -> list[TrialRecord]:
    """Champion, front, then the others by falling gain; trials without a gain last."""
    order = {"champion": 0, "front": 1, "trial": 2, "repeat": 2}

    def rank(trial: TrialRecord) -> tuple[int, float]:
        gain = trial.measure("gain")
        return order[role_of(view, trial)], math.inf if math.isnan(gain) else -gain

    return sorted(view.trials, key=rank)


def trial_series(
    view: SweepState,
    trial: TrialRecord,
    colours: Mapping[str, int],
    points: Sequence[tuple[float, float]],
) -> Series:
    """A trial's line of a picture."""
    return Series(trial.name, tuple(points), role_of(view, trial), colours.get(trial.name))
