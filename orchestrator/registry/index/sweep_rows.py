"""Writing a sweep's rows: what was read of its journal, its lines, its document."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any

from orchestrator.records.parts.journal_scan import Span
from orchestrator.registry.index.fields import FieldTable


def forget(database: sqlite3.Connection, sweep: int) -> None:
    """Remove everything that an index holds of a sweep."""
    FieldTable(database).forget(sweep)
    database.execute(
        "DELETE FROM trial_document WHERE trial IN (SELECT id FROM trial WHERE sweep = ?)", (sweep,)
    )
    for table in ("trial", "line", "sweep_field"):
        database.execute(f"DELETE FROM {table} WHERE sweep = ?", (sweep,))
    database.execute("DELETE FROM sweep WHERE id = ?", (sweep,))


def begin(database: sqlite3.Connection, folder: str) -> int:
    """Give a sweep a row, to be filled; its number."""
    row = database.execute(
        "INSERT INTO sweep (folder, inode, mtime, bytes, read, lines, first, last_start, last, "
        "touched, document) VALUES (?, 0, 0, 0, 0, 0, '', 0, '', -1, '{}') RETURNING id",
        (folder,),
    ).fetchone()
    return row[0]


def put(database: sqlite3.Connection, sweep: int, columns: dict[str, Any]) -> None:
    """Set columns of a sweep's row."""
    database.execute(
        f"UPDATE sweep SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?",
        (*columns.values(), sweep),
    )


def document(database: sqlite3.Connection, sweep: int) -> dict[str, Any]:
    """A sweep's document, see `sweep_values`."""
    row = database.execute("SELECT document FROM sweep WHERE id = ?", (sweep,)).fetchone()
    return json.loads(row[0])


def add_lines(database: sqlite3.Connection, sweep: int, spans: Iterable[Span]) -> None:
    """Remember where lines are."""
    database.executemany(
        "INSERT INTO line (sweep, trial, n, start, length, event) VALUES (?, ?, ?, ?, ?, ?)",
        ((sweep, s.trial, s.n, s.start, s.length, s.event) for s in spans),
    )


def spans_of(database: sqlite3.Connection, sweep: int, trials: Iterable[str] | None) -> list[Span]:
    """Where lines are.

    Args:
        database: The index.
        sweep: The sweep's number.
        trials: Of which trials; "" are the lines of none; None: all lines.

    Returns:
        Their places, without their times.
    """
    query = "SELECT n, start, length, event, trial FROM line WHERE sweep = ?"
    if trials is None:
        return [Span(*row) for row in database.execute(query, (sweep,))]
    rows = (database.execute(f"{query} AND trial = ?", (sweep, name)) for name in trials)
    return [Span(*row) for found in rows for row in found]
