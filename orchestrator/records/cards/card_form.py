"""Whether a document is a card: cards lie in folders that may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.records.cards.card import SCHEMA
from orchestrator.records.event import TRIAL_NAME
from orchestrator.system.field_types import check_of
from orchestrator.system.strict_json import half_character, without_nan

_FIELDS: dict[str, Any] = {
    "name": str, "sweep": str, "sweep_id": str, "trial": str, "learnt": int, "tasks": list[str],
    "to_come": list[str], "method": dict, "training": dict, "overrides": dict,
    "seeds": dict[str, int], "data": dict[str, str | None], "code": dict,
    "packages": dict[str, str | None], "measures": dict[str, float],
    "gain_interval": tuple[float, float] | None, "minus_controls": dict, "ended": float,
    "journal_line": int | None, "proposed_by": str | None, "repeats": str | None,
    "parent": dict | None, "same_as": dict | None, "test": dict | None,
}  # fmt: skip
_NAMES = ("name", "revision", "gguf", "quantization", "sha256", "setup_sha256")
_BASE: dict[str, Any] = dict.fromkeys(_NAMES, str | None)
_ADAPTER: dict[str, Any] = {"place": str | None, "sha256": str | None}
_KIN: dict[str, Any] = {"sweep": str, "sweep_id": str | None, "trial": str, "learnt": int}
_COST: dict[str, Any] = {"steps": float, "tokens": float, "seconds": float}
_ROW: dict[str, Any] = {"learnt": int, "task": str | None, "scores": dict, "probes": dict}
_SCORE: dict[str, Any] = {"value": float, "low": float, "high": float, "examples": int | None}
_TEST: dict[str, Any] = {
    "reading": int, "purpose": str, "scores": dict, "accuracy": float, "gain": float,
    "gain_interval": tuple[float, float] | None,
}  # fmt: skip


def is_card(document: Any) -> bool:
    """Whether a JSON document is a card as this version writes them, in all that is read of it.

    Args:
        document: Anything that JSON holds.

    Returns:
        Whether every field is there and of its type, every number is finite, and its trial is
        named as trials are.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return False
    if not _has(document, _FIELDS) or document != without_nan(document):
        return False
    test = document["test"]
    return (
        TRIAL_NAME.fullmatch(document["trial"]) is not None
        and 1 <= document["learnt"] == len(document["tasks"])
        and half_character(document) is None
        and _has(document.get("adapter"), _ADAPTER)
        and _has(document.get("base"), _BASE)
        and _is_method(document["method"])
        and _has(document.get("cost"), _COST)
        and all(one is None or _has(one, _KIN) for one in (document["parent"], document["same_as"]))
        and _is_matrix(document.get("matrix"))
        and all(pair is None or _is_pair(pair) for pair in document["minus_controls"].values())
        and (test is None or (_has(test, _TEST) and _are_scores(test["scores"])))
    )


def _is_method(method: Mapping[str, Any]) -> bool:
    adapter, retention = method.get("adapter"), method.get("retention")
    return _has(adapter, {"kind": str}) and (retention is None or _has(retention, {"kind": str}))


def _is_matrix(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        _has(row, _ROW)
        and row["learnt"] == number
        and _are_scores(row["scores"])
        and row["scores"].keys() == rows[0]["scores"].keys()
        and all(map(_are_numbers, row["probes"].values()))
        for number, row in enumerate(rows)
    )


def _are_scores(scores: Mapping[str, Any]) -> bool:
    return all(
        _has(score, _SCORE) and len({score.get(end) is None for end in ("low", "high")}) == 1
        for score in scores.values()
    )


_is_pair = check_of(tuple[float, float])
_are_numbers = check_of(dict[str, float])


def _has(document: Any, hints: Mapping[str, Any]) -> bool:
    """Whether a document has these fields, of these types."""
    return isinstance(document, Mapping) and all(
        name in document and check_of(hint)(document[name]) for name, hint in hints.items()
    )
