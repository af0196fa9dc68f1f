"""Who is champion: what all trials of a sweep scored, judged together.

Trials are chosen by their validation scores, so the best of many is partly the luckiest. The
verdict allows for that: the intervals that a champion's gain has to clear hold for all trials at
once, repetitions with fresh seeds included, because those are scored on the same examples.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.measures.champion import Candidate, best_candidate, choose_champion
from orchestrator.measures.intervals import UNKNOWN
from orchestrator.measures.objectives import front
from orchestrator.measures.repetitions import Run, Spread, difference_error, spread_over
from orchestrator.records.event_values import Finalist
from orchestrator.records.events import SweepEnded
from orchestrator.spec.experiment import Experiment
from orchestrator.sweep.baselines import Controls, bounds


@dataclass(frozen=True)
class Judged:
    """A whole trial as the verdict sees it."""

    name: str
    measures: Mapping[str, float]
    examples: Mapping[str, Sequence[float]]
    """By task, the final score of each validation example."""
    order: tuple[str, ...] = ()
    """In which it learnt the tasks."""
    seed: int = 0

    @property
    def run(self) -> Run:
        """What it gained, as a repetition."""
        return Run(self.order, self.seed, self.measures.get("gain", math.nan))


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


def fresh_orders(tasks: Sequence[str], count: int) -> list[list[str]]:
    """Orders for repetitions: the first two differ, and then each comes twice.

    So what orders do can be told from what seeds do with three repetitions: A, B, A, B, C, D, C, D.
    Raising the count changes none of those that there were.

    Args:
        tasks: In the order of the sweep, of two tasks or more, which comes last of all.
        count: How many repetitions there are to be.

    Returns:
        An order for each; those of few tasks come again once all have been had.
    """
    own, dice = list(tasks), random.Random("/".join(tasks))
    wanted = min((count + 3) // 4 * 2, math.factorial(len(own)))
    found: list[list[str]] = []
    while len(found) < min(wanted, math.factorial(len(own)) - 1):
        order = dice.sample(own, len(own))
        if order != own and order not in found:
            found.append(order)
    found += [own] * (wanted - len(found))
    return [found[(place // 4 * 2 + place % 2) % len(found)] for place in range(count)]


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
    repetitions = {name: repeats for name, repeats in finalists.items() if repeats}
    repeated = [_finalist(name, repeats) for name, repeats in repetitions.items()]
    again = {name: _repeated(tried[name], repeats) for name, repeats in repetitions.items()}
    family = {name: one.examples for name, one in tried.items()}
    family |= {f"{name} again": one.examples for name, one in again.items()}
    runs = {name: [one.run for one in repeats] for name, repeats in repetitions.items()}
    groups = list(runs.values())
    spread = spread_over(groups)
    errors = {
        f"{name} again": spread.of_mean([run.order for run in own])
        for name, own in runs.items()
        if spread is not None
    }
    intervals = controls.joint_intervals(family, others=others, runs=errors)
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
        basis=_seeds_words(groups, spread, fresh=experiment.finalists.fresh_orders),
        reference=controls.reference_name,
    )
    beaten = [c for c in candidates if c.name != verdict.champion]
    runner_up = None
    between = None
    if beaten and verdict.champion is not None:
        runner_up = best_candidate(beaten, maximize=rule.maximize, subject_to=rule.subject_to).name
        shown = again or tried
        sides = [runs.get(name, []) for name in (verdict.champion, runner_up)]
        between = controls.interval(
            shown[verdict.champion].examples,
            shown[runner_up].examples,
            difference_error(sides[0], sides[1], groups) if all(sides) else None,
        )
    return SweepEnded(
        front=front({n: one.measures for n, one in tried.items()}, experiment.objectives),
        champion=verdict.champion,
        reason=verdict.reason,
        finalists=tuple(repeated),
        compared=compared,
        intervals={c.name: bounds(c.gain_interval) for c in candidates},
        runner_up=runner_up,
        runner_up_interval=bounds(between),
        seed_deviation=None if spread is None else spread.seed_deviation,
        order_deviation=None if spread is None else spread.order_deviation,
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


def _repeated(tried: Judged, repeats: Sequence[Judged]) -> Judged:
    """A trial by the means of its repetitions; what these lack is its own."""
    examples = _mean_examples([one.examples for one in repeats])
    return Judged(tried.name, {**tried.measures, **_means(repeats)}, examples)


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


def _seeds_words(groups: Sequence[Sequence[Run]], spread: Spread | None, *, fresh: bool) -> str:
    """On which seeds and orders a verdict stands, in words."""
    counts = sorted({len(runs) for runs in groups})
    if not counts:
        return ""
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    told = f"on {number} fresh seed{'' if counts == [1] else 's'}"
    orders = {run.order for runs in groups for run in runs}
    if len(orders) > 1:
        told += f" and {len(orders)} orders of the tasks"
    elif fresh:
        told += " and another order of the tasks"
    told += " that had no part in the choice"
    if spread is None:
        return told
    if spread.order_deviation is None:
        varied = "which" if len(orders) == 1 else "all of which together"
        return f"{told}, between {varied} gains differ by {spread.seed_deviation:.3f} (sd)"
    return (
        f"{told}; gains differ by {spread.seed_deviation:.3f} between seeds and by "
        f"{spread.order_deviation:.3f} between orders (sd)"
    )
