"""Keeping the index with the journals: what was appended since it last looked, and nothing else."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.registry.index.journal_place import Known, first_line_hash, known_journals
from orchestrator.registry.index.pruned_adapters import noted_bytes
from orchestrator.registry.index.sweep_rows import forget
from orchestrator.registry.index.used_adapters import mark_used, registry_moved


def refresh(database: sqlite3.Connection, storage: Path) -> None:
    """Let the index say what the journals and the registry say now.

    Args:
        database: The index.
        storage: The storage folder.

    Raises:
        sqlite3.Error: It cannot be written.
    """
    found, known = _journals(storage), known_journals(database)
    gone = [one for name, one in known.items() if name not in found]
    changed = [name for name, stat in found.items() if name not in known or known[name].was != stat]
    if gone:
        with _transaction(database):
            _follow(database, storage, gone, [name for name in changed if name not in known])
    if changed:
        # What reads events takes a third of a second to load; most commands need none of it.
        from orchestrator.registry.index.taking import take

        for name in changed:
            with _transaction(database):
                take(database, storage / name)
    if gone or changed or registry_moved(database, storage):
        with _transaction(database):
            mark_used(database, storage)


def unread_bytes(database: sqlite3.Connection, storage: Path) -> int:
    """How many bytes of journals an index has not read yet."""
    known = known_journals(database)
    return sum(
        size - (known[name].read if name in known else 0)
        for name, (_, _, size, _) in _journals(storage).items()
    )


def _journals(storage: Path) -> dict[str, tuple[int, int, int, int]]:
    """The journals of a storage folder by the name of the sweep's folder, and what they are now."""
    found: dict[str, tuple[int, int, int, int]] = {}
    try:
        names = [entry.name for entry in os.scandir(storage)]
    except OSError:
        return {}
    for name in names:
        try:
            stat = (storage / name / JOURNAL_NAME).stat()
        except OSError:  # no folder, no journal, or none that can be looked at
            continue
        if stat.st_size:
            found[name] = (stat.st_ino, stat.st_mtime_ns, stat.st_size, noted_bytes(storage / name))
    return found


def _follow(
    database: sqlite3.Connection, storage: Path, gone: Sequence[Known], fresh: Sequence[str]
) -> None:
    """Let sweeps have the new names of their folders, and forget those that were removed."""
    by_first = {}
    for name in fresh:
        with (storage / name / JOURNAL_NAME).open("rb") as file:
            by_first.setdefault(first_line_hash(file), []).append(name)
    for known in gone:
        names = by_first.get(known.first)
        if names:
            database.execute("UPDATE sweep SET folder = ? WHERE id = ?", (names.pop(), known.id))
        else:
            forget(database, known.id)


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """One change of the index, whole or not at all."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
