"""What the sections of the page share: tables, and measures as the tables write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.records.trial_record import TrialRecord
from orchestrator.system.formatting import show

SIGNED = {
    "gain",
    "forgetting",
    "forgetting_from_learned",
    "forgetting_vs_base",
    "probe_drift",
    "backward_transfer",
    "forward_transfer",
}
"""Measures that are differences, and are written with their sign."""

Row = tuple[str, Sequence[object]]
"""The row's class in the style sheet (or nothing) and its cells, of which the first names it."""


@dataclass(frozen=True)
class Table:
    """A table in a frame of its own."""

    caption: str
    """May be empty."""
    heads: Sequence[str]
    rows: Sequence[Row]
    words: Sequence[int] = ()
    """Columns of text, which stand to the left, as the first one always does."""
    code: int | None = None
    """The column, one of `words`, that holds code."""


def measure_cell(trial: TrialRecord, name: str) -> str:
    """A measure as the tables write it."""
    digits = 0 if name.startswith("cost") else 3
    return show(trial.measure(name), signed=name in SIGNED, digits=digits)


MOST_ROWS = 60


def first_rows(rows: list[Row]) -> tuple[list[Row], str]:
    """The first rows of a table that may be long, and what its caption says of the others."""
    left = len(rows) - MOST_ROWS
    return rows[:MOST_ROWS], f"The first {MOST_ROWS} of {len(rows):,}" if left > 0 else ""
