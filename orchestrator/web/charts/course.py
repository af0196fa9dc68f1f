"""What the picture of a search's course draws: hypervolume over the compute that was spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.measures.objectives import Direction
from orchestrator.measures.pareto import hypervolume

_MOST_POINTS = 400


def needed(objectives: Mapping[str, Direction]) -> list[str]:
    """The columns that `volume` reads of a row."""
    return ["trial", "of", "ended", "seconds", *objectives]


def volume(
    rows: Sequence[dict[str, Any]], objectives: Mapping[str, Direction], name: str
) -> dict[str, Any]:
    """The share of the last hypervolume that was reached by when.

    Args:
        rows: Of a sweep's trials, with the columns that are `needed`.
        objectives: The sweep's.
        name: The sweep's.

    Returns:
        One line; its x counts device minutes of the trials that had ended. The reference lies a
        tenth of the range below the worst value seen, as in the report.
    """
    import numpy as np

    ended = [row for row in rows if row.get("ended") is not None and not row.get("of")]
    ended.sort(key=lambda row: row["ended"])
    if len(ended) < 2 or not objectives:
        return {"empty": "Fewer than two trials have ended so far."}
    signs = np.array([1.0 if better == "max" else -1.0 for better in objectives.values()])
    values = np.array(
        [[_number(row.get(name)) for name in objectives] for row in ended], dtype=np.float64
    )
    whole: list[bool] = np.isfinite(values).all(axis=1).tolist()  # pyright: ignore
    if not any(whole):
        return {"empty": "No trial has all objectives so far."}
    signed = values * signs
    low, high = signed[whole].min(axis=0), signed[whole].max(axis=0)
    room = np.where(high > low, 0.1 * (high - low), 1e-6)
    worst = dict(zip(objectives, ((low - room) * signs).tolist(), strict=True))
    spent, best = 0.0, signed[:0]
    points: list[list[float]] = [[0.0, 0.0]]
    for row, own, known in zip(ended, signed, whole, strict=True):
        spent += _number(row.get("seconds"), 0.0) / 60
        reached = points[-1][1]
        # Only what no trial before it beats can add to the volume.
        if known and not (best >= own).all(axis=1).any():
            best = np.vstack([best[~(own >= best).all(axis=1)], own])
            known_best = [dict(zip(objectives, one.tolist(), strict=True)) for one in best * signs]
            reached = hypervolume(known_best, objectives, worst)
        points.append([spent, reached])
    most = points[-1][1]
    if most <= 0.0:
        return {"empty": "No trial has all objectives so far."}
    shares = [[round(x, 4), round(y / most, 5)] for x, y in points]
    return {
        "x": {"label": "device minutes of trials that have ended"},
        "y": {"label": "share of the last hypervolume", "min": 0, "max": 1},
        "lines": [{"name": name, "points": _corners(shares), "step": True}],
    }


def _corners(points: list[list[float]]) -> list[list[float]]:
    """The points where the height changes, and the last."""
    kept = [points[0]]
    for point in points[1:]:
        if point[1] != kept[-1][1]:
            kept.append(point)
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    step = max(1, len(kept) // _MOST_POINTS)
    return [point for i, point in enumerate(kept) if i % step == 0 or i == len(kept) - 1]


def _number(value: Any, missing: float = math.nan) -> float:
    return missing if value is None else float(value)
