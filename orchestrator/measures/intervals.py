"""Bootstrap intervals of score differences, paired by example, for one trial or several jointly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BOOTSTRAP_RESAMPLES = 2000
INTERVAL_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A central bootstrap interval of a difference."""

    low: float
    high: float

    @property
    def excludes_zero_from_below(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0.0


@dataclass(frozen=True)
class RunError:
    """The squared standard error that a mean over runs has, beside the one over examples."""

    seeds: float = 0.0
    orders: float = 0.0
    seeds_freedom: float = math.inf
    """By how many degrees of freedom it is known, as is `orders`."""
    orders_freedom: float = math.inf

    @property
    def squared(self) -> float:
        """Both parts together."""
        return self.seeds + self.orders


UNKNOWN = Interval(-math.inf, math.inf)
"""Of a difference that was not measured on all of its examples."""


def gain_interval(
    final: Sequence[Sequence[float]],
    base: Sequence[Sequence[float]],
    *,
    runs: RunError | None = None,
    seed: int = 0,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> Interval:
    """The paired bootstrap interval of one mean score difference on the same examples.

    Examples are resampled within each task, the same ones for both sides, so that what is common
    to both cancels; the difference is then averaged over tasks, as `gain` is.

    Args:
        final: Per task, the score of each example (0 or 1, or a probability) after learning.
        base: The same examples' scores under the other side (zero-shot, majority, runner-up).
        runs: What seeds and orders leave in the difference; None: nothing is known of it.
        seed: Seed of the resampling.
        resamples: Number of bootstrap resamples.

    Returns:
        The central 95 % interval, as `joint_intervals` makes it of a single difference.

    Raises:
        ValueError: If the two sides do not hold the same number of tasks and examples.
    """
    known = {} if runs is None else {"": runs}
    made = joint_intervals({"": final}, base, runs=known, seed=seed, resamples=resamples)
    return made[""]


def joint_intervals(
    finals: Mapping[str, Sequence[Sequence[float]]],
    base: Sequence[Sequence[float]],
    *,
    others: int = 0,
    runs: Mapping[str, RunError] | None = None,
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

    A mean over runs is resampled over examples, orders and seeds at once: they are crossed, so the
    variances add (Owen 2007, Ann. Appl. Stat. 1, bootstraps them so). Two orders are too few to be
    drawn again from themselves, which would halve their variance. What they and the seeds do is
    drawn from normal distributions with the estimated variances instead, and as these are
    estimated, the standard error of each resample has variances drawn with their degrees of
    freedom: with no other source the interval is Student's.

    Args:
        finals: By trial, per task, the score of each example after learning.
        base: The same examples' scores under the other side.
        others: Further trials that were looked at and of which no such scores are known (stopped
            early): each counts as one trial more.
        runs: By trial, the error that its mean has over seeds and orders, beside that over
            examples; none where nothing is said.
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
        squared += (apart**2).sum(axis=0) / (examples * max(examples - 1, 1))
        widened += _widened(task)
        gain += mean
        telling += (task != 0.0).sum(axis=0)
    tail = (1.0 - INTERVAL_LEVEL) / 2.0 * count / (count + others)
    varies = squared > _ROUNDING
    known = [(runs or {}).get(name, RunError()) for name in finals]
    drawn, spread = _drawn_runs(generator, resamples, known)
    deviations += len(base) * drawn
    varies |= np.array([error.squared for error in known]) > 0.0
    scatter = np.sqrt(squared + len(base) ** 2 * spread)
    standard = (deviations / np.where(scatter > 0.0, scatter, 1.0))[:, varies]
    other = np.array([error.squared for error in known])
    gain, errors = gain / len(base), np.sqrt(widened / len(base) ** 2 + other)
    low = gain - _exceeded(standard, tail) * errors
    high = gain + _exceeded(-standard, tail) * errors
    unsure = 0.5**telling > tail / count
    low, high = low - unsure * np.maximum(low, 0.0), high - unsure * np.minimum(high, 0.0)
    return {
        name: Interval(float(low[place]), float(high[place])) for place, name in enumerate(finals)
    }


def example_error(final: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> float:
    """The standard error over examples that `gain_interval` takes.

    Args:
        final: Per task, the score of each example after learning.
        base: The same examples' scores under the other side.

    Returns:
        That of the mean over tasks.

    Raises:
        ValueError: If the two sides do not hold the same number of tasks and examples.
    """
    squared = sum(float(_widened(task)[0]) for task in _paired_differences({"": final}, base))
    return math.sqrt(squared) / len(base)


def _widened(task: Any) -> Any:
    """The squared standard error over the examples of a task and two more: float64 (trials,)."""
    import numpy as np

    examples, extreme = len(task), np.abs(task).max(axis=0)
    squares = ((task - task.mean(axis=0)) ** 2).sum(axis=0)
    return (squares + 2.0 * extreme**2) / (examples * (examples + 1))


def _resampled(generator: Any, resamples: int, examples: int) -> Any:
    """How much each example weighs in each resample: float64 (resamples, examples)."""
    import numpy as np

    places = generator.integers(0, examples, size=(resamples, examples))
    places += np.arange(resamples)[:, None] * examples
    counts = np.bincount(places.ravel(), minlength=resamples * examples)
    return counts.reshape(resamples, examples) / examples


def _drawn_runs(generator: Any, resamples: int, known: Sequence[RunError]) -> tuple[Any, Any]:
    """What seeds and orders do in each resample.

    Returns:
        What is drawn, and the variance that the resample would estimate of it: both float64
        (resamples, trials), or (1, trials) of zeros where no trial has such an error.
    """
    import numpy as np

    drawn = spread = np.zeros((1, len(known)))
    if not any(error.squared for error in known):
        return drawn, spread
    for part in ("seeds", "orders"):
        variance = np.array([getattr(error, part) for error in known])
        freedom = np.array([getattr(error, f"{part}_freedom") for error in known])
        shape = (resamples, len(known))
        finite = np.where(np.isfinite(freedom), freedom, 1.0)
        found = generator.chisquare(finite, size=shape) / finite
        drawn = drawn + np.sqrt(variance) * generator.standard_normal(shape)
        spread = spread + variance * np.where(np.isfinite(freedom), found, 1.0)
    return drawn, spread


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
