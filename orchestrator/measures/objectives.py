"""Measures of a finished trial, their directions, and the Pareto front over several trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.measures import accuracy_matrix
from orchestrator.measures.accuracy_matrix import AccuracyMatrix

Direction = Literal["max", "min"]

NATURAL_DIRECTIONS: Mapping[str, Direction] = {
    "accuracy": "max",
    "gain": "max",
    "forgetting": "min",
    "forgetting_from_learned": "min",
    "forgetting_vs_base": "min",
    "backward_transfer": "max",
    "forward_transfer": "max",
    "learning_accuracy": "max",
    "probe_drift": "min",
    "probe_accuracy_kept": "max",
    "cost_s": "min",
    "cost_tokens": "min",
}
"""Every measure that can be an objective, with the direction that is better."""

NEEDS_ORDER = frozenset(
    {
        *("forgetting", "forgetting_from_learned", "forgetting_vs_base", "backward_transfer"),
        *("forward_transfer", "learning_accuracy"),
    }
)
"""Measures that do not exist where all tasks are learnt at once."""


@dataclass(frozen=True)
class ProbeReading:
    """What a probe (a task that is measured and never learnt) read before and after."""

    kind: Literal["language_modelling", "choice"]
    before: float
    """Mean token cross-entropy in nats (language modelling) or accuracy in [0, 1] (choice)."""
    after: float
    chance: float = 0.0
    """Accuracy of a uniform guess, in [0, 1); used for choice probes only."""


def measures(
    matrix: AccuracyMatrix,
    *,
    reference: Sequence[float] | None = None,
    probes: Sequence[ProbeReading] = (),
    cost_s: float = math.nan,
    cost_tokens: float = math.nan,
) -> dict[str, float]:
    """Every measure of one finished trial.

    Args:
        matrix: The accuracy matrix with row 0 filled in.
        reference: What `gain` is measured against, per task; None: row 0.
        probes: What each probe read on the base and at the end of the sequence.
        cost_s: Device seconds, evaluation included.
        cost_tokens: Useful (unpadded) training tokens.

    Returns:
        A value for each name in `NATURAL_DIRECTIONS`; NaN where something was not measured.
        `probe_drift` is the mean over language-model probes of the change in nats per token, and
        `probe_accuracy_kept` the mean, over the choice probes on which the base is better than a
        guess, of the chance-corrected share kept.
    """
    drifts = [p.after - p.before for p in probes if p.kind == "language_modelling"]
    # Of what the base does no better than by guessing, nothing is there to be kept.
    kept = [
        (p.after - p.chance) / (p.before - p.chance)
        for p in probes
        if p.kind == "choice" and p.before > p.chance
    ]
    return {
        "accuracy": accuracy_matrix.accuracy(matrix),
        "gain": accuracy_matrix.gain(matrix, reference),
        "forgetting": accuracy_matrix.forgetting(matrix),
        "forgetting_from_learned": accuracy_matrix.forgetting_from_learned(matrix),
        "forgetting_vs_base": accuracy_matrix.forgetting_vs_base(matrix),
        "backward_transfer": accuracy_matrix.backward_transfer(matrix),
        "forward_transfer": accuracy_matrix.forward_transfer(matrix),
        "learning_accuracy": accuracy_matrix.learning_accuracy(matrix),
        "probe_drift": sum(drifts) / len(drifts) if drifts else math.nan,
        "probe_accuracy_kept": sum(kept) / len(kept) if kept else math.nan,
        "cost_s": cost_s,
        "cost_tokens": cost_tokens,
    }


def dominates(
    mine: Mapping[str, float], other: Mapping[str, float], objectives: Mapping[str, Direction]
) -> bool:
    """Whether `mine` is at least as good in every objective and better in one."""
    better = False
    for name, direction in objectives.items():
        sign = 1.0 if direction == "max" else -1.0
        difference = sign * (mine[name] - other[name])
        if difference < 0:
            return False
        better = better or difference > 0
    return better


def front(
    trials: Mapping[str, Mapping[str, float]], objectives: Mapping[str, Direction]
) -> list[str]:
    """The names of the trials that no other trial dominates (Pareto), in the order given.

    A trial with an unmeasured (NaN) objective is on no front.

    Args:
        trials: Trial to measures.
        objectives: The measures that count, with their directions.

    Returns:
        The names on the front.
    """
    whole = {
        name: values
        for name, values in trials.items()
        if not any(math.isnan(values[objective]) for objective in objectives)
    }
    return [
        name
        for name, values in whole.items()
        if not any(dominates(other, values, objectives) for other in whole.values())
    ]
