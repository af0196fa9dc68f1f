"""How far the index has read a journal, and whether what it read is still there."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class Known:
    """What the index knows of a journal's file."""

    id: int
    """The sweep's number in the index."""
    folder: str
    inode: int
    mtime: int
    bytes: int
    read: int
    """How many bytes of it were read: whole lines."""
    lines: int
    first: str
    """A hash of the first line."""
    last_start: int
    """Where the last line that was read begins."""
    last: str
    """A hash of it."""
    touched: int
    """The number of the last line of a trial's own: a verdict before it is void; -1: none."""
    pruned: int
    """How many bytes the notes of what was pruned of its trials had."""
    problem: str | None
    """Why it cannot be read."""

    @property
    def was(self) -> tuple[int, int, int, int]:
        """What was there when it was read: inode, last change (ns), bytes, bytes of those notes."""
        return (self.inode, self.mtime, self.bytes, self.pruned)


def known_journals(database: sqlite3.Connection) -> dict[str, Known]:
    """What an index knows of journals, by the name of the sweep's folder."""
    columns = ", ".join(Known.__dataclass_fields__)
    rows = database.execute(f"SELECT {columns} FROM sweep").fetchall()
    return {row[1]: Known(*row) for row in rows}


def hashed(raw: bytes) -> str:
    """A short hash of a line."""
    return hashlib.sha256(raw).hexdigest()[:16]


def first_line_hash(file: IO[bytes]) -> str:
    """A hash of a journal's first line, which no two sweeps share."""
    file.seek(0)
    return hashed(file.readline())


def last_read(file: IO[bytes], known: Known) -> bytes | None:
    """The last line that was read of a journal, if what was read is still there.

    A line's sum vouches for every line before it. A journal is only ever appended to; one that was
    changed and did not grow was written by something else.

    Args:
        file: The journal, open for reading.
        known: What the index knows of it.

    Returns:
        The line, without its end; None where the journal is to be read from its beginning.
    """
    now = os.fstat(file.fileno())
    if known.problem is not None or now.st_size < known.read:
        return None
    if now.st_ino == known.inode and now.st_size == known.bytes and now.st_mtime_ns != known.mtime:
        return None
    if first_line_hash(file) != known.first:
        return None
    file.seek(known.last_start)
    raw = file.read(known.read - known.last_start)
    return raw[:-1] if hashed(raw) == known.last else None
