"""The index's file: opened, made, thrown away; in memory where there is no room for one."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from orchestrator.registry.index.schema import TABLES, VERSION
from orchestrator.registry.query import values

BUSY_SECONDS = 60.0
"""How long to wait for another process that fills the index."""

_UNUSABLE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""What SQLite says of a file that is damaged, no database, or not of our tables."""


def index_file(storage: Path) -> Path:
    """Where a storage folder's index is."""
    return storage / "cache" / "index.db"


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is not what it should be, and not that it is busy."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _UNUSABLE


def connect(file: Path) -> sqlite3.Connection:
    """Open an index, made anew where it is missing, damaged or of another version.

    Args:
        file: Its file; the folder is made when missing.

    Returns:
        A connection to it.

    Raises:
        OSError: The folder cannot be made.
        sqlite3.Error: It can be neither read nor made there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _opened(str(file))
    except sqlite3.Error as error:
        if not is_damaged(error):
            raise
    throw_away(file)
    return _opened(str(file))


def in_memory() -> sqlite3.Connection:
    """An empty index that is gone with its process."""
    return _opened(":memory:")


def throw_away(file: Path) -> None:
    """Remove an index and what SQLite keeps beside it."""
    for name in (file.name, f"{file.name}-journal", f"{file.name}-wal", f"{file.name}-shm"):
        with suppress(FileNotFoundError):
            (file.parent / name).unlink()


def _opened(place: str) -> sqlite3.Connection:
    # Transactions are begun and ended by hand.
    database = sqlite3.connect(place, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        # Not WAL: that must not be shared by machines, and is not read in a folder without rights.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA cache_size = -16000")
        database.create_function("as_text", 1, values.as_text, deterministic=True)
        database.create_function("compared", 3, values.compared, deterministic=True)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            _made(database)
    except BaseException:
        database.close()
        raise
    return database


def _made(database: sqlite3.Connection) -> None:
    """Give a file our tables, in place of whatever it holds."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        if database.execute("PRAGMA user_version").fetchone()[0] == VERSION:
            return  # another process was faster
        held = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall()
        for (name,) in held:
            database.execute(f'DROP TABLE "{name.replace(chr(34), chr(34) * 2)}"')
        for statement in TABLES.split(";\n"):
            if statement.strip():
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {VERSION}")
