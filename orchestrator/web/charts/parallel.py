"""What parallel coordinates draw: settings and measures of every trial side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.figures import measure_words

MOST_AXES = 9
"""More would stand too close to be read; which ones is the reader's choice."""
MOST_LINES = 3000
"""More lines than this are one grey; the front and the champion are always among those drawn."""


def parallel(
    rows: Sequence[dict[str, Any]],
    paths: Sequence[str],
    logarithmic: Mapping[str, bool],
    where: str,
) -> dict[str, Any]:
    """Axes and lines.

    Args:
        rows: Of a sweep's trials: those on the front first, then as the search has made them.
        paths: The columns to be drawn, in order.
        logarithmic: Settings that the search draws on a logarithmic scale.
        where: The filter that `rows` fulfil, to which a brushed range is added.

    Returns:
        `axes`, `rows` (a value for each axis, null where there is none) and `roles`.
    """
    axes: list[dict[str, Any]] = []
    values: list[list[Any]] = []
    for path in paths[:MOST_AXES]:
        own = [row.get(path) for row in rows]
        known = [value for value in own if value is not None]
        if not known:
            continue
        made = _axis(path, known, logarithmic.get(path, False))
        axes.append(made)
        words = made["kind"] == "category"
        values.append([None if v is None else _word(v) if words else _number(v) for v in own])
    if len(axes) < 2 or not rows:
        return {"empty": "Fewer than two of these columns hold anything so far."}
    named = {axis["path"] for axis in axes}
    lines = [list(line) for line in zip(*values, strict=True)]
    return {
        "axes": axes,
        "rows": lines,
        "roles": [_role(row) for row in rows],
        "left_out": [path for path in paths if _named(path) not in named],
        "where": where,
    }


def _axis(path: str, known: Sequence[Any], logarithmic: bool) -> dict[str, Any]:
    numbers = all(_is_number(value) for value in known)
    last = path.rsplit(".", 1)[-1]
    same = last in {"kind", "r"} and path.count(".") > 1
    short = ".".join(path.split(".")[-2:]) if same else last.replace("_", " ")
    made: dict[str, Any] = {"path": _named(path), "label": measure_words(path), "short": short}
    if numbers and len({float(value) for value in known}) > 1:
        log = logarithmic and all(value > 0 for value in known)
        return made | {"kind": "log" if log else "value"}
    texts = sorted({_word(value) for value in known})
    quoted = {_word(value): _quoted(value) for value in known}
    return made | {"kind": "category", "values": texts, "quoted": [quoted[text] for text in texts]}


def _word(value: Any) -> str:
    """A value as the query language compares it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(value: Any) -> str:
    """A value as a query has it, where quotes of one kind cannot hold that kind."""
    text = _word(value)
    return f'"{text}"' if "'" in text else f"'{text}'"


def _named(path: str) -> str:
    """A field as a query names it."""
    return path if re.fullmatch(r"[\w.\-]+", path) else f"`{path}`"


def _role(row: Mapping[str, Any]) -> str:
    if row.get("champion"):
        return "champion"
    return "front" if row.get("on_front") else "trial"


def _number(value: float) -> float:
    return float(f"{value:.6g}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
