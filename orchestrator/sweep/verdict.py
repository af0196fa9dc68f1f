"""Who is champion: what all trials of a sweep scored, judged together.

Trials are chosen by their validation scores, so the best of many is partly the luckiest. The
verdict allows for that: the intervals that a champion's gain has to clear hold for all trials at
once, repetitions with fresh seeds included, because those are scored on the same examples.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.measures.champion import Candidate, best_candidate, choose_champion
from orchestrator.measures.intervals import UNKNOWN
from orchestrator.measures.objectives import front
from orchestrator.records.event_values import Finalist
from orchestrator.records.events import SweepEnded
from orchestrator.spec.experiment import Experiment
from orchestrator.sweep.baselines import Controls, bounds

USUAL_DEVIATION = 0.02
"""Of gains between seeds, where nothing else is known: the root mean square over the twelve methods
of docs/results.md."""
USUAL_FREEDOM = 4
"""As how many repetitions that counts."""


@dataclass(frozen=True)
class Judged:
    """A whole trial as the verdict sees it."""

    name: str
    measures: Mapping[str, float]
    examples: Mapping[str, Sequence[float]]
    """By task, the final score of each validation example."""


def fresh_seeds(own: int, used: Collection[int], count: int) -> list[int]:
    """Seeds for repetitions: the first ones after the experiment's own that nothing was chosen by.

    Args:
        own: The experiment's seed.
        used: The seeds of the trials among which finalists were chosen.
        count: How many are wanted.

    Returns:
        The seeds, rising.
    """
    free = (seed for seed in itertools.count(own + 1) if seed not in used)
    return list(itertools.islice(free, count))


def judge(
    tried: Mapping[str, Judged],
    finalists: Mapping[str, Sequence[Judged]],
    controls: Controls,
    experiment: Experiment,
    *,
    others: int = 0,
) -> SweepEnded:
    """Name the front and the champion, or say why there is none.

    Where finalists were repeated with fresh seeds, only they can win, by the means of their
    repetitions. The seeds are fresh and the examples are not: the intervals allow for the choice
    among all that were tried as well as for that among the finalists.

    Args:
        tried: Every whole trial that may become champion, by name.
        finalists: Of the finalists, their repetitions; empty lists where there are none.
        controls: What they are compared with.
        experiment: The sweep's.
        others: Further trials that were looked at: stopped early, or not scored on all examples.

    Returns:
        The verdict, to be written.
    """
    rule = experiment.champion
    repeated = [_finalist(name, repeats) for name, repeats in finalists.items() if repeats]
    again = {
        name: Judged(
            name,
            {**tried[name].measures, **_means(repeats)},
            _mean_examples([one.examples for one in repeats]),
        )
        for name, repeats in finalists.items()
        if repeats
    }
    family = {name: one.examples for name, one in tried.items()}
    family |= {f"{name} again": one.examples for name, one in again.items()}
    spread = _over_seeds(repeated)
    errors = {
        f"{one.trial} again": spread.variance / len(one.repeats) for one in repeated if spread
    }
    intervals = controls.joint_intervals(family, others=others, seeds=errors)
    candidates = [
        Candidate(name, one.measures, intervals.get(f"{name} again", UNKNOWN))
        for name, one in again.items()
    ] or [
        Candidate(name, one.measures, intervals.get(name, UNKNOWN)) for name, one in tried.items()
    ]
    compared = len(tried) + others
    verdict = choose_champion(
        candidates,
        maximize=rule.maximize,
        subject_to=rule.subject_to,
        compared=compared,
        basis=_seeds_words(repeated, spread, orders=experiment.finalists.fresh_orders),
        reference=controls.reference_name,
    )
    beaten = [c for c in candidates if c.name != verdict.champion]
    runner_up = None
    between = None
    if beaten and verdict.champion is not None:
        runner_up = best_candidate(beaten, maximize=rule.maximize, subject_to=rule.subject_to).name
        shown = again or tried
        between = controls.interval(shown[verdict.champion].examples, shown[runner_up].examples)
    return SweepEnded(
        front=front({n: one.measures for n, one in tried.items()}, experiment.objectives),
        champion=verdict.champion,
        reason=verdict.reason,
        finalists=tuple(repeated),
        compared=compared,
        intervals={c.name: bounds(c.gain_interval) for c in candidates},
        runner_up=runner_up,
        runner_up_interval=bounds(between),
        seed_deviation=None if spread is None else spread.deviation,
    )


def _finalist(name: str, repeats: Sequence[Judged]) -> Finalist:
    """A finalist's repetitions: their mean measures, and the spread over seeds."""
    names = list(repeats[0].measures)
    return Finalist(
        name,
        tuple(one.name for one in repeats),
        _means(repeats),
        {n: _spread([one.measures[n] for one in repeats]) for n in names},
    )


def _means(repeats: Sequence[Judged]) -> dict[str, float]:
    names = list(repeats[0].measures)
    return {n: statistics.fmean(one.measures[n] for one in repeats) for n in names}


def _spread(values: Sequence[float]) -> float:
    """The standard deviation; NaN where it is not known."""
    known = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.stdev(values) if known else math.nan


def _mean_examples(each: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Each example's mean score over some trials, by task; without tasks that one lacks."""
    return {
        task: [statistics.fmean(scores) for scores in zip(*(e[task] for e in each), strict=True)]
        for task in each[0]
        if all(task in e for e in each)
    }


@dataclass(frozen=True)
class _Spread:
    """How much gains differ between seeds, pooled over all finalists."""

    deviation: float
    variance: float
    """Of a single repetition. As a deviation is badly known from few repetitions, it is moderated
    by what is usual (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3), and so much larger that a normal
    interval with it is as wide as Student's."""


def _over_seeds(repeated: Sequence[Finalist]) -> _Spread | None:
    """The spread over seeds; None where no finalist was repeated more than once."""
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

    known = [
        (len(one.repeats) - 1, one.spread["gain"])
        for one in repeated
        if math.isfinite(one.spread.get("gain", math.nan))
    ]
    freedom = sum(count for count, _ in known)
    if not freedom:
        return None
    squares = sum(count * deviation**2 for count, deviation in known)
    whole = freedom + USUAL_FREEDOM
    moderated = (squares + USUAL_FREEDOM * USUAL_DEVIATION**2) / whole
    widened = moderated * (float(stdtrit(whole, 0.975)) / float(stdtrit(10**9, 0.975))) ** 2
    return _Spread(math.sqrt(squares / freedom), widened)


def _seeds_words(repeated: Sequence[Finalist], spread: _Spread | None, *, orders: bool) -> str:
    """On which seeds a verdict stands, in words."""
    counts = sorted({len(finalist.repeats) for finalist in repeated})
    if not counts:
        return ""
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    noun = "seed that had" if counts == [1] else "seeds that had"
    told = f"on {number} fresh {noun} no part in the choice"
    if orders:
        told += ", each with another order of the tasks"
    if spread is not None:
        told += f", between which gains differ by {spread.deviation:.3f} (standard deviation)"
    return told
