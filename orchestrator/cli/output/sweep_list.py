"""A list of sweeps for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.output.tables import add_cells, natural_width, table
from orchestrator.records.registry.in_use import words_of
from orchestrator.system.formatting import show, show_duration

_BEGUN = ("state", "opened", "changed", "trials", "failed")
_FOUND = ("champion", "gain", "test\ngain", "hyper-\nvolume", "core\ntime")
_WORDS = {"sweep", "state", "opened", "champion"}


def render_sweeps(rows: Sequence[Mapping[str, Any]], *, now: float, width: int) -> RenderableType:
    """A list of sweeps for people.

    Args:
        rows: What the index gives, oldest first.
        now: Seconds since the epoch.
        width: Columns to lay the tables out for.

    Returns:
        A table; two where one is too wide; and where what is in use is not what a verdict chose.
    """
    whole = table("Sweeps", "sweep", *_BEGUN, *_FOUND, left=_WORDS)
    first = table("Sweeps", "sweep", *_BEGUN, left=_WORDS)
    second = table("What they have found", "sweep", *_FOUND, left=_WORDS)
    for row in rows:
        begun, found = _begun(row, now), _found(row)
        add_cells(whole, [row["sweep"], *begun, *found])
        add_cells(first, [row["sweep"], *begun])
        add_cells(second, [row["sweep"], *found])
    told = [
        Text(f"{row['sweep']}: {words}", style="yellow")
        for row in rows
        if (words := words_of(row.get("in_use")))
    ]
    tables = [whole] if natural_width(whole) <= width else [first, Text(), second]
    return Group(*tables, *told)


def _begun(row: Mapping[str, Any], now: float) -> list[str]:
    opened, changed = row.get("opened"), row.get("changed")
    return [
        row["state"],
        "-" if opened is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(opened)),
        "-" if changed is None else f"{show_duration(now - changed)} ago",
        f"{row['trials_finished']}/{row['trials_planned']}",
        str(row["trials_failed"]),
    ]


def _found(row: Mapping[str, Any]) -> list[str]:
    return [
        row.get("champion") or "-",
        show(row.get("best_gain"), signed=True),
        show(row.get("test_gain"), signed=True),
        show(row.get("hypervolume")),
        show_duration(row.get("core_seconds")),
    ]
