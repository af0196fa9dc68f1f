"""The 95 % interval of a single score, from the score and its number of examples alone."""

from __future__ import annotations

import math

_Z = 1.959963984540054


def score_interval(value: float, examples: int) -> tuple[float, float] | None:
    """Where the mean score over all examples that there could be lies, by Wilson's interval.

    Scores of an example lie in [0, 1]; those that are not 0 or 1 vary less than answers that are
    right or wrong with the same mean, so that the interval is then wider than need be.

    Args:
        value: The mean score, in [0, 1].
        examples: How many stand behind it.

    Returns:
        Low and high; None where the score is not known, or no mean of such scores.

    References: Wilson (1927), Probable inference, the law of succession, and statistical inference.
    https://doi.org/10.1080/01621459.1927.10502953
    """
    if examples < 1 or not 0.0 <= value <= 1.0:
        return None
    squared = _Z * _Z
    middle = (value + squared / (2 * examples)) / (1 + squared / examples)
    spread = value * (1 - value) / examples + squared / (4 * examples * examples)
    reach = _Z / (1 + squared / examples) * math.sqrt(spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)
