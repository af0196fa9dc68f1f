"""Which adapters are in use: the registry of the storage folder says it, not the journals."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.records.errors import RegistryError
from orchestrator.records.registry.in_use import Decided, in_use, unknown
from orchestrator.records.registry.registry_file import REGISTRY_NAME, read_changes


def registry_moved(database: sqlite3.Connection, storage: Path) -> bool:
    """Whether the registry is not what it was when `mark_used` last read it."""
    known = database.execute("SELECT stamp FROM registry").fetchall()
    return known != [(_stamp(storage),)]


def mark_used(database: sqlite3.Connection, storage: Path) -> None:
    """Say of sweeps which adapter is in use under their names, and of trials whose it is.

    Args:
        database: The index, in a transaction; it holds the sweeps as their journals are now.
        storage: The storage folder.
    """
    # Looked at first: what is appended meanwhile is a change that the next look finds.
    stamp = _stamp(storage)
    sweeps = _sweeps(database)
    try:
        changes = read_changes(storage)
    except RegistryError as error:
        found = {number: unknown(error) for number, one in sweeps.items() if one.champion}
        _put(database, sweeps, found, [])
    else:
        own = {number: in_use(one, changes) for number, one in sweeps.items()}
        # A name may be that of no sweep here: a promotion can give any.
        names = {change.name for change in changes} - {one.name for one in sweeps.values()}
        others = [in_use(Decided(name, None, None), changes) for name in sorted(names)]
        _put(database, sweeps, own, others)
    database.execute("DELETE FROM registry")
    database.execute("INSERT INTO registry (stamp) VALUES (?)", (stamp,))


def _stamp(storage: Path) -> str:
    try:
        now = (storage / REGISTRY_NAME).stat()
    except OSError:
        return ""
    return f"{now.st_ino}-{now.st_mtime_ns}-{now.st_size}"


def _sweeps(database: sqlite3.Connection) -> dict[int, Decided]:
    """The sweeps by their numbers, oldest first."""
    rows = database.execute(
        "SELECT id, folder, json_extract(document, '$.identity'), "
        "json_extract(document, '$.champion'), json_extract(document, '$.ended') "
        "FROM sweep ORDER BY COALESCE(begun, 0), folder"
    ).fetchall()
    return {number: Decided(*rest) for number, *rest in rows}


def _put(
    database: sqlite3.Connection, sweeps: Mapping[int, Decided],
    own: Mapping[int, dict[str, Any] | None], others: Iterable[dict[str, Any] | None],
) -> None:  # fmt: skip
    database.execute("UPDATE trial SET in_use = 0 WHERE in_use")
    database.executemany(
        "UPDATE sweep SET in_use = ? WHERE id = ?",
        [(json.dumps(own.get(number)), number) for number in sweeps],
    )
    used = [one for one in [*own.values(), *others] if one is not None and one["adapter"]]
    database.executemany(
        "UPDATE trial SET in_use = 1 WHERE sweep = ? AND name = ?",
        [(_number(sweeps, one), one["trial"]) for one in used],
    )


def _number(sweeps: Mapping[int, Decided], used: Mapping[str, Any]) -> int | None:
    """The sweep of an adapter: that of its name, or else the first of its identity."""
    same = [number for number, one in sweeps.items() if one.sweep_id == used["sweep_id"]]
    named = [number for number in same if sweeps[number].name == used["sweep"]]
    return next(iter([*named, *same]), None)
