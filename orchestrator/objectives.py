"""Measures of a trial, the front over several of them, intervals, and the choice of a champion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator import accuracy_matrix as measured
from orchestrator.accuracy_matrix import AccuracyMatrix

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

BOOTSTRAP_RESAMPLES = 2000
INTERVAL_LEVEL = 0.95


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
class Interval:
    """A central bootstrap interval of a difference."""

    low: float
    high: float

    @property
    def excludes_zero_from_below(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0.0


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
        "accuracy": measured.accuracy(matrix),
        "gain": measured.gain(matrix, reference),
        "forgetting": measured.forgetting(matrix),
        "forgetting_from_learned": measured.forgetting_from_learned(matrix),
        "forgetting_vs_base": measured.forgetting_vs_base(matrix),
        "backward_transfer": measured.backward_transfer(matrix),
        "forward_transfer": measured.forward_transfer(matrix),
        "learning_accuracy": measured.learning_accuracy(matrix),
        "probe_drift": sum(drifts) / len(drifts) if drifts else math.nan,
        "probe_accuracy_kept": sum(kept) / len(kept) if kept else math.nan,
        "cost_s": cost_s,
        "cost_tokens": cost_tokens,
    }


def gain_interval(
    final: Sequence[Sequence[float]],
    base: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> Interval:
    """The paired bootstrap interval of a mean score difference on the same examples.

    Examples are resampled within each task, the same ones for both sides, so that what is common
    to both cancels; the difference is then averaged over tasks, as `gain` is.

    Args:
        final: Per task, the score of each example (0 or 1, or a probability) after learning.
        base: The same examples' scores under the other side (zero-shot, majority, runner-up).
        seed: Seed of the resampling.
        resamples: Number of bootstrap resamples.

    Returns:
        The central 95 % interval.

    Raises:
        ValueError: If the two sides do not hold the same number of tasks and examples.
    """
    import numpy as np

    if [len(task) for task in final] != [len(task) for task in base] or not final:
        raise ValueError(
            "A paired interval needs the same examples on both sides, got "
            f"{[len(task) for task in final]} and {[len(task) for task in base]} per task."
        )
    generator = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for mine, other in zip(final, base, strict=True):
        difference = np.asarray(mine, dtype=np.float64) - np.asarray(other, dtype=np.float64)
        drawn = generator.integers(0, len(difference), size=(resamples, len(difference)))
        total += difference[drawn].mean(axis=1)
    tail = (1.0 - INTERVAL_LEVEL) / 2.0
    low, high = np.quantile(total / len(final), [tail, 1.0 - tail])
    return Interval(float(low), float(high))


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


@dataclass(frozen=True)
class Candidate:
    """A finished trial as the choice of a champion sees it."""

    name: str
    values: Mapping[str, float]
    gain_interval: Interval


@dataclass(frozen=True)
class Verdict:
    """Who is champion and why, or why nobody is."""

    champion: str | None
    reason: str


def best_candidate(
    candidates: Sequence[Candidate], *, maximize: str, subject_to: Mapping[str, float]
) -> Candidate:
    """The best of some candidates: those that keep every limit come first.

    Args:
        candidates: At least one.
        maximize: The measure that decides, as in `choose_champion`.
        subject_to: Limits by measure.

    Returns:
        The candidate.
    """
    sign = 1.0 if NATURAL_DIRECTIONS[maximize] == "max" else -1.0
    return max(
        candidates,
        key=lambda c: (
            all(_keeps(c, name, limit) for name, limit in subject_to.items()),
            _or_worst(sign * c.values[maximize]),
        ),
    )


def choose_champion(
    candidates: Sequence[Candidate],
    *,
    maximize: str,
    subject_to: Mapping[str, float],
    basis: str = "",
    reference: str = "the untouched base",
) -> Verdict:
    """Choose the champion by a stated preference, or nobody.

    A champion must beat the untouched base beyond doubt (its interval of `gain` lies above 0) and
    keep every limit; among those, the largest `maximize` wins.

    Args:
        candidates: The finished trials.
        maximize: The measure that decides; for measures where less is better, the least wins.
        subject_to: Limits by measure: at most, or at least where more is better.
        basis: What the values stand on ("on 2 fresh seeds ..."), for the reason.
        reference: What `gain` is measured against, for the reason.

    Returns:
        The verdict, whose reason is a sentence for people.
    """
    if not candidates:
        return Verdict(None, "no trial finished")
    stands = f" ({basis})" if basis else ""
    convincing = [c for c in candidates if c.gain_interval.excludes_zero_from_below]
    if not convincing:
        best = max(candidates, key=lambda c: _or_worst(c.values["gain"]))
        return Verdict(
            None,
            f"no method beats {reference}: even the largest gain, "
            f"{best.values['gain']:+.3f} of {best.name}{stands}, has a 95 % interval "
            f"[{best.gain_interval.low:+.3f}, {best.gain_interval.high:+.3f}] that does not "
            "lie above 0",
        )
    limits = ", ".join(
        f"{name} {_limit_sign(name)} {limit:g}" for name, limit in subject_to.items()
    )
    allowed = [c for c in convincing if all(_keeps(c, n, limit) for n, limit in subject_to.items())]
    if not allowed:
        return Verdict(
            None,
            f"{len(convincing)} of {len(candidates)} trials beat {reference}, "
            f"but none keeps {limits}{stands}",
        )
    winner = best_candidate(allowed, maximize=maximize, subject_to=subject_to)
    word = "largest" if NATURAL_DIRECTIONS[maximize] == "max" else "smallest"
    of_all = f" among the {len(allowed)} of {len(candidates)} that beat {reference}"
    among = f"{of_all} and keep {limits}" if limits else of_all
    return Verdict(
        winner.name,
        f"{word} {maximize} ({winner.values[maximize]:+.3f}){among}; its gain of "
        f"{winner.values['gain']:+.3f} has a 95 % interval "
        f"[{winner.gain_interval.low:+.3f}, {winner.gain_interval.high:+.3f}]{stands}",
    )


def _or_worst(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _limit_sign(measure: str) -> str:
    return ">=" if NATURAL_DIRECTIONS[measure] == "max" else "<="


def _keeps(candidate: Candidate, measure: str, limit: float) -> bool:
    value = candidate.values[measure]
    # NaN keeps no limit: what was not measured cannot be vouched for.
    return value >= limit if NATURAL_DIRECTIONS[measure] == "max" else value <= limit
