"""Measures of a finished trial, their directions, and the Pareto front over several trials.

A measure is one entry of `MEASURES`: what it is computed from, which direction is better, and what
an experiment needs so that it exists. Plugins may add theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from curlora_kinds.table import Table
from orchestrator.measures import accuracy_matrix, matrix_cells
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.measures.matrix_cells import Cells

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class ProbeReading:
    """What a probe (a task that is measured and never learnt) read before and after."""

    kind: Literal["language_modelling", "choice"]
    before: float
    """Mean token cross-entropy in nats (language modelling) or accuracy in [0, 1] (choice)."""
    after: float
    chance: float = 0.0
    """Accuracy of a uniform guess, in [0, 1); used for choice probes only."""


@dataclass(frozen=True)
class Outcome:
    """What is known of a finished trial."""

    matrix: AccuracyMatrix
    """With row 0, the untouched base, filled in."""
    reference: Sequence[float] | None = None
    """What `gain` is measured against, per task; None: row 0."""
    probes: Sequence[ProbeReading] = ()
    """What each probe read on the base and at the end of the sequence."""
    cost_s: float = math.nan
    """Device seconds, evaluation included."""
    cost_tokens: float = math.nan
    """Useful (unpadded) training tokens."""


Need = Literal["two_tasks", "no_linear_head", "text_probe", "choice_probe"]
"""What an experiment must have so that a measure exists."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a finished trial that can be an objective, or limit the champion."""

    name: str
    """What an experiment calls it."""
    summary: str
    """One line."""
    better: Direction
    """Which direction is better."""
    of: Callable[[Outcome], float]
    """Computes it; NaN where something was not measured."""
    needs_order: bool = False
    """Whether it does not exist where all tasks are learnt at once."""
    needs: tuple[Need, ...] = ()
    """What an experiment must have, else it is refused as an objective."""
    cells: Callable[[int], Cells] = matrix_cells.every_cell
    """From the number of tasks to the cells of the matrix, below row 0, that it is computed from:
    nothing else is scored for it while a sweep searches."""
    reads_probes: bool = True
    """Whether it is computed from what probes read at the end."""


def _drift(outcome: Outcome) -> float:
    drifts = [p.after - p.before for p in outcome.probes if p.kind == "language_modelling"]
    return sum(drifts) / len(drifts) if drifts else math.nan


def _kept(outcome: Outcome) -> float:
    # Of what the base does no better than by guessing, nothing is there to be kept.
    kept = [
        (p.after - p.chance) / (p.before - p.chance)
        for p in outcome.probes
        if p.kind == "choice" and p.before > p.chance
    ]
    return sum(kept) / len(kept) if kept else math.nan


def _is_measure(thing: object) -> TypeGuard[Measure]:
    return isinstance(thing, Measure)


MEASURES: Table[Measure] = Table(
    "measure",
    (
        Measure(
            name="accuracy",
            summary="mean score over all tasks at the end",
            better="max",
            of=lambda outcome: accuracy_matrix.accuracy(outcome.matrix),
            cells=matrix_cells.last_row,
            reads_probes=False,
        ),
        Measure(
            name="gain",
            summary="what `accuracy` is above the untouched base and its controls",
            better="max",
            of=lambda outcome: accuracy_matrix.gain(outcome.matrix, outcome.reference),
            cells=matrix_cells.last_row,
            reads_probes=False,
        ),
        Measure(
            name="forgetting",
            summary="mean drop of each task from its best score to its last",
            better="min",
            of=lambda outcome: accuracy_matrix.forgetting(outcome.matrix),
            needs_order=True,
            cells=matrix_cells.all_but_last_column,
            reads_probes=False,
        ),
        Measure(
            name="forgetting_from_learned",
            summary="the same from the score when the task had just been learnt",
            better="min",
            of=lambda outcome: accuracy_matrix.forgetting_from_learned(outcome.matrix),
            needs_order=True,
            cells=matrix_cells.from_learnt_on,
            reads_probes=False,
        ),
        Measure(
            name="forgetting_vs_base",
            summary="the same below the untouched base",
            better="min",
            of=lambda outcome: accuracy_matrix.forgetting_vs_base(outcome.matrix),
            needs_order=True,
            cells=matrix_cells.all_but_last_column,
            reads_probes=False,
        ),
        Measure(
            name="backward_transfer",
            summary="mean change of each task by those learnt after it",
            better="max",
            of=lambda outcome: accuracy_matrix.backward_transfer(outcome.matrix),
            needs_order=True,
            needs=("two_tasks",),
            cells=matrix_cells.diagonal_and_last,
            reads_probes=False,
        ),
        Measure(
            name="forward_transfer",
            summary="mean change of each task by those learnt before it",
            better="max",
            of=lambda outcome: accuracy_matrix.forward_transfer(outcome.matrix),
            needs_order=True,
            needs=("two_tasks", "no_linear_head"),
            cells=matrix_cells.superdiagonal,
            reads_probes=False,
        ),
        Measure(
            name="learning_accuracy",
            summary="mean score of each task when it had just been learnt",
            better="max",
            of=lambda outcome: accuracy_matrix.learning_accuracy(outcome.matrix),
            needs_order=True,
            cells=matrix_cells.diagonal,
            reads_probes=False,
        ),
        Measure(
            name="probe_drift",
            summary="mean change in nats per token over the probes of running text",
            better="min",
            of=_drift,
            needs=("text_probe",),
            cells=matrix_cells.no_cell,
        ),
        Measure(
            name="probe_accuracy_kept",
            summary="mean share of the base's score above chance that is kept on choice probes",
            better="max",
            of=_kept,
            needs=("choice_probe",),
            cells=matrix_cells.no_cell,
        ),
        Measure(
            name="cost_s",
            summary="device seconds, evaluation included",
            better="min",
            of=lambda outcome: outcome.cost_s,
            cells=matrix_cells.no_cell,
            reads_probes=False,
        ),
        Measure(
            name="cost_tokens",
            summary="unpadded training tokens",
            better="min",
            of=lambda outcome: outcome.cost_tokens,
            cells=matrix_cells.no_cell,
            reads_probes=False,
        ),
    ),
    takes=_is_measure,
    name_of=lambda measure: measure.name,
)
"""Every measure that can be an objective, by name."""


class _Directions(Mapping[str, Direction]):
    """The direction of each measure that there is."""

    def __getitem__(self, name: str) -> Direction:
        return MEASURES[name].better

    def __iter__(self) -> Iterator[str]:
        return iter(MEASURES)

    def __len__(self) -> int:
        return len(MEASURES)


NATURAL_DIRECTIONS: Mapping[str, Direction] = _Directions()
"""Every measure that can be an objective, with the direction that is better."""


def needs_order() -> frozenset[str]:
    """Name the measures that do not exist where all tasks are learnt at once."""
    return frozenset(name for name, measure in MEASURES.items() if measure.needs_order)


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
        A value for each name in `MEASURES`; NaN where something was not measured.
    """
    outcome = Outcome(matrix, reference, probes, cost_s, cost_tokens)
    return {name: float(measure.of(outcome)) for name, measure in MEASURES.items()}


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
