"""The documents of trials that an index keeps, read without anything that makes them."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KeptDocument:
    """A trial's document, and what stands beside it."""

    trial: str
    on_front: bool
    champion: bool
    adapter: str | None
    """Where its adapter is, as the journal has it; None where there is none, or none any more."""
    pruned: float | None
    """When it was pruned, in seconds since the epoch."""
    log: str | None
    text: str
    """The document as JSON, see `trial_document`."""


def kept_documents(
    database: sqlite3.Connection, sweep: int, trials: Sequence[str]
) -> list[KeptDocument]:
    """The documents of some trials.

    Args:
        database: The index.
        sweep: The sweep's number.
        trials: The trials' names.

    Returns:
        Those that there are, in the order of the names.
    """
    rows = database.execute(
        "SELECT name, on_front, champion, CASE WHEN adapter THEN place END, pruned, log, document "
        "FROM trial "
        "JOIN trial_document ON trial_document.trial = trial.id "
        "WHERE sweep = ? AND name IN (SELECT value FROM json_each(?))",
        (sweep, json.dumps(list(trials))),
    )
    found = {
        name: KeptDocument(
            name, bool(on_front), bool(champion), place, pruned, log,
            zlib.decompress(document).decode(),
        )
        for name, on_front, champion, place, pruned, log, document in rows
    }  # fmt: skip
    return [found[name] for name in trials if name in found]
