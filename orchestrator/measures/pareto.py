"""Trials in the order of a choice by several objectives: ranks of fronts, and hypervolume.

The computations are those of moocore (López-Ibáñez and others; fronts after Kung et al. 1975,
hypervolume after Guerreiro and Fonseca 2017); here are directions, references and order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.measures.objectives import Direction

Values = Mapping[str, float]


def _signed(trials: Sequence[Values], objectives: Mapping[str, Direction]) -> Any:
    """Values so that more is better: float64 (trials, objectives)."""
    import numpy as np

    signs = [1.0 if direction == "max" else -1.0 for direction in objectives.values()]
    rows = [[float(values[name]) for name in objectives] for values in trials]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(signs)) * signs


def front_ranks(trials: Sequence[Values], objectives: Mapping[str, Direction]) -> list[int]:
    """On which front each trial lies.

    Args:
        trials: What each scored; finite in every objective.
        objectives: At least one, with the direction that is better.

    Returns:
        0 for those that no other dominates, 1 for those that only trials of rank 0 dominate, and so
        on (non-dominated sorting, Deb et al. 2002, NSGA-II, Sec. III-A).
    """
    import moocore  # pyright: ignore[reportMissingTypeStubs]

    if not trials:
        return []
    points = _signed(trials, objectives)
    if points.shape[1] == 1:  # the library wants two objectives; distinct values are the fronts
        order = sorted(set(points[:, 0].tolist()), reverse=True)
        return [order.index(value) for value in points[:, 0].tolist()]
    return [int(rank) for rank in moocore.pareto_rank(points, maximise=True)]


def hypervolume(
    trials: Sequence[Values], objectives: Mapping[str, Direction], reference: Values
) -> float:
    """The volume that some trials dominate (Zitzler and Thiele 1998).

    Args:
        trials: What each scored; one that is not finite, or no better than the reference in an
            objective, adds nothing.
        objectives: At least one, with the direction that is better.
        reference: The worst value that counts, by objective.

    Returns:
        The product of the objectives' units; 0 of no trials.
    """
    import moocore  # pyright: ignore[reportMissingTypeStubs]
    import numpy as np

    points = _signed(trials, objectives)
    bound = _signed([reference], objectives)[0]
    points = points[np.isfinite(points).all(axis=1) & (points > bound).all(axis=1)]
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points[:, 0].max() - bound[0])
    return float(moocore.hypervolume(points, ref=bound, maximise=True))


def covered(trials: Sequence[Values], objectives: Mapping[str, Direction]) -> float | None:
    """How much of what lies between the worst and the best of each objective some trials dominate.

    Args:
        trials: What each scored; finite in every objective.
        objectives: At least one, with the direction that is better.

    Returns:
        From 0 to 1: the hypervolume over that of the box from a tenth of the range below the worst
        value seen to the best one; 1 where one trial is the best in everything. None of fewer than
        two trials, and where all have the same values.
    """
    import numpy as np

    if len(trials) < 2:
        return None
    points = _signed(trials, objectives)
    low, high = points.min(axis=0), points.max(axis=0)
    if not (high > low).any():
        return None
    signs = _signed([dict.fromkeys(objectives, 1.0)], objectives)[0]
    # What is the same for all takes no part in the share, whatever its room.
    room: Any = np.where(high > low, 0.1 * (high - low), 1.0)
    worst = dict(zip(objectives, ((low - room) * signs).tolist(), strict=True))
    return hypervolume(trials, objectives, worst) / math.prod((high - low + room).tolist())


def best_first(trials: Sequence[Values], objectives: Mapping[str, Direction]) -> list[int]:
    """Places of some trials, the best one first.

    They are ordered by front. Within a front, those that alone cover more of the space between the
    front and the worst values seen come first (hypervolume contribution, as SMS-EMOA sorts, Beume
    et al. 2007), each objective scaled to the range that was seen; then those that came first.

    Args:
        trials: What each scored; finite in every objective.
        objectives: At least one, with the direction that is better.

    Returns:
        All places, from 0.
    """
    import moocore  # pyright: ignore[reportMissingTypeStubs]
    import numpy as np

    if not trials:
        return []
    ranks = front_ranks(trials, objectives)
    points = _signed(trials, objectives)
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    own = np.zeros(len(points))
    for rank in set(ranks) if points.shape[1] > 1 else ():
        members = [place for place, its in enumerate(ranks) if its == rank]
        # A little below the worst, so that what is worst in one objective adds something, too.
        found = moocore.hv_contributions(scaled[members], ref=-0.1, maximise=True)
        own[members] = found
    return sorted(range(len(points)), key=lambda place: (ranks[place], -own[place], place))
