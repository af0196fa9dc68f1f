"""What the picture of a front draws: two measures of every trial against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.report.figures import measure_words
from orchestrator.web import addresses

KIND = "method.adapter.kind"


def needed(x: str, y: str) -> list[str]:
    """The columns that `groups` reads of a row."""
    ends = [f"{y}_low", f"{y}_high"] if y == "gain" else []
    return ["sweep", "trial", "of", "on_front", "champion", KIND, x, y, *ends]


def scatter(rows: Sequence[dict[str, Any]], sweep: str, x: str, y: str) -> dict[str, Any]:
    """The marks of one sweep: those on the front apart from the many.

    Args:
        rows: Of its trials, with the columns that are `needed`.
        sweep: Its name.
        x: The measure to the right.
        y: The measure upwards.

    Returns:
        Axes and groups; a group has names, points (x, y, low, high of y) and kinds.
    """
    drawn = [row for row in rows if _is_number(row.get(x)) and _is_number(row.get(y))]
    if not drawn:
        return {"empty": f"No trial has both {measure_words(y)} and {measure_words(x)} so far."}
    by_role: dict[str, list[dict[str, Any]]] = {
        role: [] for role in ("trial", "repeat", "front", "champion")
    }
    for row in drawn:
        by_role[_role(row)].append(row)
    groups = [_group(own, role, sweep, x, y) for role, own in by_role.items()]
    groups = [group for group in groups if group["names"]]
    joined = sorted(_best([row for row in drawn if not row.get("of")], x, y))
    for group in groups:
        group["joined"] = joined if group["role"] == "front" else []
    return {
        **axes(x, y),
        "groups": groups,
        "kinds": sorted({str(row.get(KIND) or "-") for row in drawn}),
        "missing": len(rows) - len(drawn),
    }


def compared(found: Mapping[str, Sequence[dict[str, Any]]], x: str, y: str) -> dict[str, Any]:
    """The marks of several sweeps in one picture, a colour for each.

    Args:
        found: Rows by sweep.
        x: The measure to the right.
        y: The measure upwards.

    Returns:
        As `scatter`; a group also has the place of its sweep.
    """
    groups: list[dict[str, Any]] = []
    for place, (sweep, rows) in enumerate(found.items()):
        one = scatter(rows, sweep, x, y)
        for group in one.get("groups", []):
            said = {"trial": "", "repeat": ", fresh seeds"}.get(group["role"], f", {group['role']}")
            groups.append(group | {"name": f"{sweep}{said}", "sweep": place})
    if not groups:
        return {"empty": f"No trial has both {measure_words(y)} and {measure_words(x)} so far."}
    kinds = sorted({kind for group in groups for kind in group["kinds"]})
    return {**axes(x, y), "groups": groups, "kinds": kinds, "sweeps": list(found)}


def axes(x: str, y: str) -> dict[str, Any]:
    """Names of the two axes, and which end is better."""
    return {
        side: {"name": name, "label": measure_words(name), "better": _better(name)}
        for side, name in (("x", x), ("y", y))
    }


def _better(name: str) -> str | None:
    return NATURAL_DIRECTIONS.get(name)


def _group(rows: Sequence[dict[str, Any]], role: str, sweep: str, x: str, y: str) -> dict[str, Any]:
    low, high = f"{y}_low", f"{y}_high"
    return {
        "role": role,
        "name": {"trial": "dominated", "repeat": "fresh seeds"}.get(role, role),
        "at": f"{addresses.sweep_page(sweep)}/trials/",
        "names": [row["trial"] for row in rows],
        "points": [
            [_short(row[x]), _short(row[y]), _short(row.get(low)), _short(row.get(high))]
            for row in rows
        ],
        "kinds": [str(row.get(KIND) or "-") for row in rows],
    }  # fmt: skip


def _role(row: dict[str, Any]) -> str:
    if row.get("champion"):
        return "champion"
    if row.get("on_front"):
        return "front"
    return "repeat" if row.get("of") else "trial"


def _best(rows: Sequence[dict[str, Any]], x: str, y: str) -> list[list[float]]:
    """The corners that no other trial beats in the two measures, from one end to the other.

    Sorted by x from its better end, a point is on the front exactly when no point before it is as
    good in y: one pass, where comparing all pairs of ten thousand takes minutes.

    Args:
        rows: Of trials that have both measures.
        x: The one measure.
        y: The other.

    Returns:
        Pairs of x and y, each once.
    """
    directions = {name: _better(name) or "max" for name in (x, y)}
    sign = {name: -1.0 if better == "max" else 1.0 for name, better in directions.items()}
    points = sorted({(sign[x] * row[x], sign[y] * row[y]) for row in rows})
    kept: list[list[float]] = []
    for px, py in points:
        if not kept or py < kept[-1][1]:
            kept.append([px, py])
    return [[sign[x] * px, sign[y] * py] for px, py in kept]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(value: Any) -> float | None:
    """Six digits: what a screen can show, in half the bytes."""
    return float(f"{value:.6g}") if value is not None and _is_number(value) else None
