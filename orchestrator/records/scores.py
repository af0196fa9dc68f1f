"""Scores as the journal holds them: null where nothing was measured, one a task or an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.measures.accuracy_matrix import NOT_MEASURED
from orchestrator.measures.intervals import gain_interval


def mean(scores: Sequence[float]) -> float:
    """The mean over tasks, NaN when one was not measured."""
    return sum(scores) / len(scores) if scores else NOT_MEASURED


def paired_interval(
    mine: Mapping[str, Sequence[float | None]],
    other: Mapping[str, Sequence[float | None]],
    tasks: Sequence[str],
) -> list[float] | None:
    """The paired bootstrap interval of two sides' mean score difference over the same examples.

    Args:
        mine: By task, the score of each example.
        other: The same of the other side.
        tasks: The tasks to average over.

    Returns:
        Low and high; None where a task or an example is missing on either side.
    """
    sides = [[side.get(task) or [] for task in tasks] for side in (mine, other)]
    counts = [[len(scores) for scores in side] for side in sides]
    whole = all(score is not None for side in sides for scores in side for score in scores)
    if not tasks or counts[0] != counts[1] or 0 in counts[0] or not whole:
        return None
    made = gain_interval(*(_numbers(side) for side in sides))
    return [made.low, made.high]


def _numbers(side: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[number(score) for score in scores] for scores in side]


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested document as dotted paths and values."""
    leaves: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def number(value: float | None) -> float:
    """A number of the journal, NaN when it was not measured (null)."""
    return NOT_MEASURED if value is None else float(value)
