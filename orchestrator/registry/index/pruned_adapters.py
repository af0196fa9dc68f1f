"""Which adapters of a sweep were pruned: the journal says nothing of that, notes beside it do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from orchestrator.records.cards.pruned import PRUNED_FILE, pruned_at


def noted_bytes(folder: Path) -> int:
    """How long a sweep's notes are of trials of which something was pruned; 0: there are none."""
    try:
        return (folder / PRUNED_FILE).stat().st_size
    except OSError:
        return 0


def mark_pruned(
    database: sqlite3.Connection, sweep: int, folder: Path, trials: Sequence[str] | None = None
) -> None:
    """Say of a sweep's trials which adapters were pruned, and when.

    Args:
        database: The index, in a transaction.
        sweep: The sweep's number.
        folder: Its folder.
        trials: The names of those that are looked at; None: all.
    """
    among = "" if trials is None else " AND name IN (SELECT value FROM json_each(?))"
    rows = database.execute(
        "SELECT trial.id, name, place FROM trial JOIN trial_document "
        f"ON trial_document.trial = trial.id WHERE sweep = ? AND place IS NOT NULL{among}",
        (sweep,) if trials is None else (sweep, json.dumps(list(trials))),
    ).fetchall()
    noted = [
        (number, pruned_at(folder / place))
        for number, name, place in rows
        if (folder / "trials" / name / PRUNED_FILE).is_file()
    ]
    database.executemany(
        "UPDATE trial SET adapter = ?, pruned = ? WHERE id = ?",
        [(when is None, when, number) for number, when in noted],
    )
