"""Whether two trials can be told apart on the examples that both were scored on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Parts = Mapping[str, Sequence[float]]
"""By task, what each example adds to a measure: the sum of the tasks' means is the measure, but for
a constant that all trials share."""

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """A measure of one trial minus that of another, on the same examples."""

    value: float
    error: float
    """Its standard error."""
    freedom: float
    """Examples behind it, less one of each task."""
    telling: int
    """Examples on which the two differ."""

    def bounds(self, tail: float) -> tuple[float, float]:
        """The interval that leaves out `tail` at each end.

        Where so few examples differ that chance alone would let all of them agree that often (a
        sign test), it reaches to 0.

        Args:
            tail: In (0, 0.5).

        Returns:
            Lower and upper bound.
        """
        from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

        reach = float(stdtrit(max(1.0, self.freedom), 1.0 - tail)) * self.error
        low, high = self.value - reach, self.value + reach
        if 0.5**self.telling > tail:
            return min(low, 0.0), max(high, 0.0)
        return low, high


def paired_difference(mine: Parts, other: Parts) -> Difference:
    """Compare two trials example by example.

    The standard error is that of the examples and two more of each task, one each way, as extreme
    as the most extreme one, so that a few examples which happen to agree are no certainty.

    Args:
        mine: One trial's parts.
        other: The other's, of the same tasks and examples.

    Returns:
        The difference; NaN and infinite error where something is not finite.

    Raises:
        ValueError: If the two do not hold the same tasks and numbers of examples.
    """
    import numpy as np

    sizes, others = ({task: len(each) for task, each in p.items()} for p in (mine, other))
    if sizes != others or not sizes or 0 in sizes.values():
        raise ValueError(
            "A paired difference needs the same examples on both sides, got "
            f"{sizes} and {others} by task."
        )
    value, variance, freedom, telling = 0.0, 0.0, 0.0, 0
    for task, each in mine.items():
        apart: Any = np.asarray(each, dtype=np.float64) - np.asarray(other[task], dtype=np.float64)
        count, mean = len(apart), float(apart.mean())
        squares = float(((apart - mean) ** 2).sum())
        extreme = float(np.abs(apart).max())
        value += mean
        variance += (squares + 2.0 * extreme**2) / (count * (count + 1))
        freedom += count - 1
        telling += int((np.abs(apart) > _ROUNDING).sum())
    if not math.isfinite(value + variance):
        return Difference(math.nan, math.inf, freedom, 0)
    return Difference(value, math.sqrt(variance), freedom, telling)
