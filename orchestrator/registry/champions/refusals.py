"""What speaks against making an adapter champion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.registry.champions.adapters import FoundAdapter


def mismatches(champion: Mapping[str, Any], challenger: Mapping[str, Any]) -> list[str]:
    """Where two cards are not of the same base and data, so that their scores do not compare.

    Args:
        champion: The champion's card.
        challenger: The other one's.

    Returns:
        A sentence each; empty where both hashes are known and match on every task of the champion.
    """
    found: list[str] = []
    ours, theirs = (card["base"].get("sha256") for card in (champion, challenger))
    if not ours or ours != theirs:
        found.append(
            f"the base has other weights: {_short(theirs)} ({challenger['base'].get('name')}), and "
            f"the champion's {_short(ours)} ({champion['base'].get('name')})"
        )
    lacking = [task for task in champion["tasks"] if task not in challenger["tasks"]]
    if lacking:
        found.append(f"it has not learnt {', '.join(lacking)}, which the champion has")
    for task in challenger["tasks"]:
        if task not in champion["tasks"]:
            continue
        ours, theirs = (card["data"].get(task) for card in (champion, challenger))
        if not ours or ours != theirs:
            found.append(f"the data of {task} are others: {_short(theirs)}, and {_short(ours)}")
    return found


def lacks_test(card: Mapping[str, Any]) -> list[str]:
    """Whether the test data say nothing of an adapter, as a sentence."""
    if card["test"] is not None:
        return []
    if card["to_come"]:
        return ["the test data were read for no adapter before the last task"]
    return ["its test result is missing: the test data were never read for it"]


def against(champion: FoundAdapter | None, challenger: FoundAdapter) -> list[str]:
    """Everything that speaks against a promotion.

    Args:
        champion: The one in use; None where there is none.
        challenger: The adapter to be promoted.

    Returns:
        A sentence each, without a full stop.
    """
    other = [] if champion is None else mismatches(champion.card, challenger.card)
    return [*other, *lacks_test(challenger.card)]


def _short(sha256: str | None) -> str:
    return "unknown" if not sha256 else sha256[:12]
