"""Measures of a trial, the front over several of them, intervals, and the choice of a champion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


UNKNOWN = Interval(-math.inf, math.inf)
"""Of a difference that was not measured on all of its examples."""


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
    """The paired bootstrap interval of one mean score difference on the same examples.

    Examples are resampled within each task, the same ones for both sides, so that what is common
    to both cancels; the difference is then averaged over tasks, as `gain` is.

    Args:
        final: Per task, the score of each example (0 or 1, or a probability) after learning.
        base: The same examples' scores under the other side (zero-shot, majority, runner-up).
        seed: Seed of the resampling.
        resamples: Number of bootstrap resamples.

    Returns:
        The central 95 % interval, as `joint_intervals` makes it of a single difference.

    Raises:
        ValueError: If the two sides do not hold the same number of tasks and examples.
    """
    made = joint_intervals({"": final}, base, seed=seed, resamples=resamples)
    return made[""]


def joint_intervals(
    finals: Mapping[str, Sequence[Sequence[float]]],
    base: Sequence[Sequence[float]],
    *,
    others: int = 0,
    seed: int = 0,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> dict[str, Interval]:
    """Intervals of several trials' gains that hold all at once, whichever of them is looked at.

    The best of many trials is partly the luckiest, so an interval that is right for a trial named
    beforehand is too narrow for it. All trials are therefore resampled together: in each resample
    the same examples for all, each trial's own mean subtracted and divided by its standard error,
    and the largest of these deviations kept. Every interval is as many standard errors wide as
    this maximum exceeds in 2.5 % of the resamples (Westfall and Young 1993, Resampling-based
    multiple testing; Romano and Wolf 2005, Econometrica 73, with the studentised maximum).

    Few examples are not taken for certainty. The standard error is that of the examples and two
    more of each task, one each way, as extreme as the most extreme one. And where so few examples
    tell a trial from the other side that chance alone would let all of them agree too often (a
    sign test, times the number of trials), the interval reaches to 0.

    Args:
        finals: By trial, per task, the score of each example after learning.
        base: The same examples' scores under the other side.
        others: Further trials that were looked at and of which no such scores are known (stopped
            early): each counts as one trial more.
        seed: Seed of the resampling.
        resamples: Number of bootstrap resamples.

    Returns:
        An interval for each of `finals`. With nothing but noise the lowest bounds of all lie at 0
        or below in at least 95 % of sweeps.

    Raises:
        ValueError: If the sides do not hold the same number of tasks and examples.
    """
    import numpy as np

    if not finals:
        return {}
    generator = np.random.default_rng(seed)
    count = len(finals)
    gain, squared, widened = np.zeros(count), np.zeros(count), np.zeros(count)
    deviations = np.zeros((resamples, count))
    telling = np.zeros(count)
    for task in _paired_differences(finals, base):
        examples, mean = len(task), task.mean(axis=0)
        apart = task - mean
        deviations += _resampled(generator, resamples, examples) @ apart
        squares, extreme = (apart**2).sum(axis=0), np.abs(task).max(axis=0)
        squared += squares / (examples * max(examples - 1, 1))
        widened += (squares + 2.0 * extreme**2) / (examples * (examples + 1))
        gain += mean
        telling += (task != 0.0).sum(axis=0)
    tail = (1.0 - INTERVAL_LEVEL) / 2.0 * count / (count + others)
    varies = squared > _ROUNDING
    standard = deviations[:, varies] / np.sqrt(squared[varies])
    gain, errors = gain / len(base), np.sqrt(widened) / len(base)
    low = gain - _exceeded(standard, tail) * errors
    high = gain + _exceeded(-standard, tail) * errors
    unsure = 0.5**telling > tail / count
    low, high = low - unsure * np.maximum(low, 0.0), high - unsure * np.minimum(high, 0.0)
    return {
        name: Interval(float(low[place]), float(high[place])) for place, name in enumerate(finals)
    }


def _resampled(generator: Any, resamples: int, examples: int) -> Any:
    """How much each example weighs in each resample: float64 (resamples, examples)."""
    import numpy as np

    places = generator.integers(0, examples, size=(resamples, examples))
    places += np.arange(resamples)[:, None] * examples
    counts = np.bincount(places.ravel(), minlength=resamples * examples)
    return counts.reshape(resamples, examples) / examples


def _exceeded(standard: Any, tail: float) -> float:
    """What the largest of some deviates (resamples, trials) exceeds in a share of resamples."""
    import numpy as np

    if not standard.shape[1]:
        return _NORMAL_TAIL
    return max(_NORMAL_TAIL, float(np.quantile(standard.max(axis=1), 1.0 - tail)))


_ROUNDING = 1e-20
"""Squared standard errors up to this are those of equal numbers."""
_NORMAL_TAIL = 1.96
"""Standard errors that a normal deviate exceeds in 2.5 % of cases: no interval is narrower."""


def _paired_differences(
    finals: Mapping[str, Sequence[Sequence[float]]], base: Sequence[Sequence[float]]
) -> Iterator[Any]:
    """Per task, the score differences: float64 (examples, trials)."""
    import numpy as np

    sizes = [len(task) for task in base]
    for final in finals.values():
        if [len(task) for task in final] != sizes or not sizes or 0 in sizes:
            raise ValueError(
                "A paired interval needs the same examples on both sides, got "
                f"{[len(task) for task in final]} and {sizes} per task."
            )
    for place, other in enumerate(base):
        mine = np.array([final[place] for final in finals.values()], dtype=np.float64).T
        yield mine - np.asarray(other, dtype=np.float64)[:, None]


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
    compared: int = 1,
    basis: str = "",
    reference: str = "the untouched base",
) -> Verdict:
    """Choose the champion by a stated preference, or nobody.

    A champion must beat the untouched base beyond doubt (its interval of `gain`, made together with
    those of all that were tried, lies above 0) and keep every limit; among those, the largest
    `maximize` wins.

    Args:
        candidates: The finished trials.
        maximize: The measure that decides; for measures where less is better, the least wins.
            A trial of which it was not measured is never chosen.
        subject_to: Limits by measure: at most, or at least where more is better.
        compared: For how many trials the intervals allow, for the reason.
        basis: What the values stand on ("on 2 fresh seeds ..."), for the reason.
        reference: What `gain` is measured against, for the reason.

    Returns:
        The verdict, whose reason is a sentence for people.
    """
    if not candidates:
        return Verdict(None, "no trial finished")
    choice = f" that allows for the choice among {compared} trials" if compared > 1 else ""
    stands = f" ({basis})" if basis else ""
    convincing = [c for c in candidates if c.gain_interval.excludes_zero_from_below]
    if not convincing:
        best = max(candidates, key=lambda c: _or_worst(c.values["gain"]))
        joined = " and" if choice else " that"
        return Verdict(
            None,
            f"no method beats {reference}: even the largest gain, "
            f"{best.values['gain']:+.3f} of {best.name}{stands}, has a 95 % interval "
            f"{_interval_words(best.gain_interval)}{choice}{joined} does not lie above 0",
        )
    limits = ", ".join(
        f"{name} {_limit_sign(name)} {limit:g}" for name, limit in subject_to.items()
    )
    allowed = [
        c
        for c in convincing
        if all(_keeps(c, n, limit) for n, limit in subject_to.items())
        and math.isfinite(c.values[maximize])
    ]
    if not allowed:
        return Verdict(
            None,
            f"{len(convincing)} of {len(candidates)} trials beat {reference}, "
            f"but none keeps {limits or f'a measured {maximize}'}{stands}",
        )
    winner = best_candidate(allowed, maximize=maximize, subject_to=subject_to)
    word = "largest" if NATURAL_DIRECTIONS[maximize] == "max" else "smallest"
    of_all = f" among the {len(allowed)} of {len(candidates)} that beat {reference}"
    among = f"{of_all} and keep {limits}" if limits else of_all
    return Verdict(
        winner.name,
        f"{word} {maximize} ({winner.values[maximize]:+.3f}){among}; its gain of "
        f"{winner.values['gain']:+.3f} has a 95 % interval "
        f"{_interval_words(winner.gain_interval)}{choice}{stands}",
    )


def _interval_words(interval: Interval) -> str:
    return f"[{interval.low:+.3f}, {interval.high:+.3f}]"


def _or_worst(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _limit_sign(measure: str) -> str:
    return ">=" if NATURAL_DIRECTIONS[measure] == "max" else "<="


def _keeps(candidate: Candidate, measure: str, limit: float) -> bool:
    value = candidate.values[measure]
    # NaN keeps no limit: what was not measured cannot be vouched for.
    return value >= limit if NATURAL_DIRECTIONS[measure] == "max" else value <= limit
