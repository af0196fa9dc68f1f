"""What an adapter knows and what it has forgotten, by task, from its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Score = Mapping[str, Any]
"""`value`, `low`, `high` (95 %) and `examples`, each null where it is not known."""
_UNKNOWN: Score = {"value": None, "low": None, "high": None, "examples": None}


@dataclass(frozen=True)
class TaskKnowledge:
    """One task of an adapter."""

    task: str
    learnt: bool
    """Whether the adapter has learnt it."""
    base: Score
    """What the untouched base scores."""
    learning: Score
    """Right after it was learnt."""
    now: Score
    forgotten: float | None
    """Right after it was learnt, minus now: above 0 where something was lost."""
    test: Score
    """On the test data, if they were read."""


def knowledge(card: Mapping[str, Any]) -> list[TaskKnowledge]:
    """What an adapter knows.

    Args:
        card: Its card.

    Returns:
        A row for each task: those that it has learnt in their order, then those to come.
    """
    rows = {row["learnt"]: row["scores"] for row in card["matrix"]}
    last, test = rows.get(card["learnt"], {}), (card["test"] or {}).get("scores", {})
    found: list[TaskKnowledge] = []
    for number, task in enumerate([*card["tasks"], *card["to_come"]], start=1):
        learnt = number <= card["learnt"]
        now = last.get(task, _UNKNOWN)
        learning = rows.get(number, {}).get(task, _UNKNOWN) if learnt else _UNKNOWN
        both = (learning["value"], now["value"])
        found.append(
            TaskKnowledge(
                task, learnt, rows.get(0, {}).get(task, _UNKNOWN), learning, now,
                None if None in both else both[0] - both[1], test.get(task, _UNKNOWN),
            )
        )  # fmt: skip
    return found
