"""What differs between two adapters, by their cards: also of one trial after two of its tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.api.differences import differing
from orchestrator.records.scores import flat, number
from orchestrator.registry.champions.adapters import FoundAdapter
from orchestrator.registry.champions.comparison import Reading, readings_of
from orchestrator.registry.champions.knowledge import knowledge

_SETTINGS = ("tasks", "to_come", "method", "training")
_MADE_OF = ("adapter", "parent", "same_as", "base", "seeds", "data", "code", "packages")


def diff_cards(left: FoundAdapter, right: FoundAdapter) -> dict[str, Any]:
    """The differences of two adapters, of one trial, of two, or of two sweeps.

    Args:
        left: The one.
        right: The other; differences are right minus left.

    Returns:
        What `diff_trials` returns, with `forgotten` and `test` beside it: `settings` (tasks learnt
        and to come, method, training), `measures` (those of adapters after the last task, and what
        each has cost), `scores` by task on the validation examples with paired intervals where the
        data are the same, `test` likewise on the test examples, `forgotten` by task since it was
        learnt, and `provenance`.
    """
    cards = (left.card, right.card)
    validation, test = readings_of(left, right)
    measures = [{**card["measures"], **flat({"cost": card["cost"]})} for card in cards]
    return {
        "left": left.key.reference,
        "right": right.key.reference,
        "settings": differing(*(_part(card, _SETTINGS) for card in cards)),
        "measures": _pairs(*measures),
        "examples": {
            side: _examples(card) for side, card in zip(("left", "right"), cards, strict=True)
        },
        "scores": _scores(validation),
        "interval": None if validation.interval is None else list(validation.interval),
        "test": _scores(test),
        "test_interval": None if test.interval is None else list(test.interval),
        "forgotten": _pairs(
            *({row.task: row.forgotten for row in knowledge(card) if row.learnt} for card in cards)
        ),
        "provenance": differing(*(_part(card, _MADE_OF) for card in cards)),
    }


def _part(card: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return flat({name: card[name] for name in names if card[name] is not None})


def _examples(card: Mapping[str, Any]) -> dict[str, int]:
    """How many validation examples of each task stand behind the scores of a card."""
    scores = card["matrix"][-1]["scores"] if card["matrix"] else {}
    found = {task: score["examples"] for task, score in scores.items()}
    return {task: count for task, count in found.items() if count is not None}


def _scores(reading: Reading) -> dict[str, Any]:
    return {
        row.task: {
            **_pair(number(row.champion), number(row.challenger)),
            "examples": row.examples,
            "interval": None if row.interval is None else list(row.interval),
        }
        for row in reading.tasks
    }


def _pairs(
    left: Mapping[str, float | None], right: Mapping[str, float | None]
) -> dict[str, dict[str, float]]:
    pairs = {
        name: _pair(number(left.get(name)), number(right.get(name)))
        for name in dict.fromkeys([*left, *right])
    }
    return {
        name: pair
        for name, pair in pairs.items()
        if not (math.isnan(pair["left"]) and math.isnan(pair["right"]))
    }


def _pair(left: float, right: float) -> dict[str, float]:
    return {"left": left, "right": right, "difference": right - left}
