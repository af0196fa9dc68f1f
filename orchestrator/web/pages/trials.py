"""The table of trials: filtered, sorted, cut into pages and columns by its address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.report.figures import measure_words
from orchestrator.report.tables import SIGNED
from orchestrator.system.formatting import show, show_interval
from orchestrator.web import addresses
from orchestrator.web.reading import Reading
from orchestrator.web.rendering import cell

ROWS = 50
MOST_ROWS = 500
BEST_FIRST = ("-champion", "-on_front", "-gain")
"""The order unless another is asked for."""
_USUAL = (
    "state",
    "method.adapter.kind",
    "gain",
    "forgetting",
    "probe_drift",
    "test_gain",
    "cost_s",
    "core_seconds",
)
_WORDS = frozenset(
    ("trial", "sweep", "state", "of", "by", "tasks", "task", "stopped", "reason", "base")
)
_SIGNED = frozenset((*SIGNED, "test_gain", "sweep_test_gain"))
_ALWAYS = ("sweep", "trial", "of", "on_front", "champion", "in_use", "gain_low", "gain_high",
           "test_gain_low", "test_gain_high")  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What an address asks of the table."""

    where: str
    sort: str
    columns: tuple[str, ...]
    rows: int
    offset: int

    @classmethod
    def of(cls, query: QueryParams) -> Asked:
        """Read an address; numbers that are none have their default."""
        rows, offset = query.get("rows", ""), query.get("offset", "")
        return cls(
            where=query.get("where", "").strip(),
            sort=query.get("sort", "").strip(),
            columns=tuple(dict.fromkeys(name for name in query.getlist("cols") if name)),
            rows=min(MOST_ROWS, max(1, int(rows))) if rows.isdecimal() else ROWS,
            offset=int(offset) if offset.isdecimal() and len(offset) < 10 else 0,
        )

    def fields(self) -> dict[str, Any]:
        """The query that asks the same, without its offset."""
        rows = "" if self.rows == ROWS else str(self.rows)
        return {"where": self.where, "sort": self.sort, "cols": self.columns, "rows": rows}


def usual_columns(searched: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The columns that are shown unless others are asked for."""
    wanted = dict.fromkeys([*_USUAL, *searched])
    return tuple(name for name in wanted if name in known)


def table(
    reading: Reading,
    asked: Asked,
    usual: Sequence[str],
    *,
    path: str,
    sweep: str | None,
    pick: bool,
) -> dict[str, Any]:
    """The rows of one page, and the addresses of the others.

    Args:
        reading: The storage folder.
        asked: What is asked of the table.
        usual: Its columns unless it is asked for others.
        path: The page that it stands on.
        sweep: Of this sweep only.
        pick: Whether trials can be chosen, to be compared.

    Returns:
        What the template shows.

    Raises:
        QueryError: The filter, the order or a column is wrong; the message says how.
    """
    columns = ["trial", *(name for name in (asked.columns or usual) if name != "trial")]
    if sweep is None and "sweep" not in columns:
        columns.insert(1, "sweep")
    found = reading.search(
        asked.where, order=[asked.sort] if asked.sort else BEST_FIRST, limit=asked.rows,
        offset=asked.offset, sweep=sweep, columns=list(dict.fromkeys([*_ALWAYS, *columns])),
    )  # fmt: skip
    last = asked.offset + len(found.rows)

    def address(offset: int) -> str:
        where = addresses.with_query(path, asked.fields() | {"offset": str(offset or "")})
        return f"{where}#trials"

    return {
        "columns": [_head(name, asked, path) for name in columns],
        "rows": [_row(row, columns) for row in found.rows],
        "total": found.total,
        "first": min(asked.offset + 1, last),
        "last": last,
        "before": address(max(0, asked.offset - asked.rows)) if asked.offset else None,
        "after": address(last) if last < found.total else None,
        "where": asked.where,
        "pick": pick,
    }


def _head(name: str, asked: Asked, path: str) -> dict[str, Any]:
    """A column's head: a click sorts by it, the better end first, a second one the other way."""
    better = NATURAL_DIRECTIONS.get(name)
    first = f"-{name}" if better == "max" else name
    other = name if better == "max" else f"-{name}"
    wanted = other if asked.sort == first else first
    order = {name: "ascending", f"-{name}": "descending"}.get(asked.sort)
    return {
        "path": name,
        "head": short(name),
        "sorted": order,
        "words": name in _WORDS,
        "address": addresses.with_query(path, asked.fields() | {"sort": wanted}) + "#trials",
    }


def short(name: str) -> str:
    """A column's name as its head has it."""
    if name in NATURAL_DIRECTIONS:
        return measure_words(name)
    parts = name.split(".")
    if len(parts) == 1:
        return name.replace("_", " ")
    kept = parts[-2:] if parts[-1] in {"kind", "r", "alpha"} else parts[-1:]
    return " ".join(kept).replace("_", " ")


def _row(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    champion, front = row.get("champion"), row.get("on_front")
    return {
        "kind": "champion" if champion else str(row.get("state") or ""),
        "in_use": row.get("in_use") and not champion,
        "mark": "champion" if champion else "front" if front else "",
        "address": addresses.trial_page(row["sweep"], row["trial"]),
        "reference": f"{row['sweep']}/{row['trial']}",
        "cells": [_cell(row, name) for name in columns],
    }


def _cell(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = row.get(name)
    signed = name in _SIGNED and isinstance(value, int | float)
    bounds = None
    if name in {"gain", "test_gain"} and row.get(f"{name}_low") is not None:
        bounds = show_interval([row.get(f"{name}_low"), row.get(f"{name}_high")])
    return {
        "text": show(value, signed=True) if signed else cell(value, name),
        "words": name in _WORDS or isinstance(value, str),
        "state": name == "state",
        "bounds": bounds,
    }


def choice(known: Sequence[str], shown: Sequence[str]) -> list[tuple[str, bool]]:
    """Every column that can be chosen, and whether it is."""
    return [(name, name in shown) for name in dict.fromkeys([*shown, *known]) if name != "trial"]
