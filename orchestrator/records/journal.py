"""The journal: one fsynced JSON line for everything that happened in a sweep, and the only truth.

The driver alone writes it, under a lock; where `storage` is an address, its lines are in the store
before they count, and the file is a copy (`system.stores.stored_lines`). MLflow, tables and the
resumption of a sweep are functions of its lines. A line cut short by a crash is removed when the
journal is opened again: what it would have said had not been acknowledged to anyone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from orchestrator.records.errors import JournalError
from orchestrator.records.event import Event, Line
from orchestrator.records.events import read_events
from orchestrator.records.journal_lines import (
    JOURNAL_NAME,
    add_lines,
    checked_lines,
    sealed,
)
from orchestrator.system.durable import remedy
from orchestrator.system.file_lock import LockingUnsupportedError, try_lock, unlock
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.stored_lines import stored_lines
from orchestrator.system.strict_json import without_nan

E = TypeVar("E", bound=Event)

LOOKS_SECONDS = 10.0
"""How long processes that only look at a journal may be in the way of one that will write it."""


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the sweep's journal open for writing at this moment."""
    path = folder / JOURNAL_NAME
    try:
        with path.open("rb") as file:
            if not try_lock(file, path, shared=True):
                return True
    except (FileNotFoundError, LockingUnsupportedError):
        return False  # where nothing can be locked, no sweep is run
    stored = stored_lines(path)
    return stored is not None and stored.held_elsewhere()


def _lock(file: FileIO, path: Path) -> bool:
    """Lock a journal for writing, unless another process writes it.

    Args:
        file: The journal.
        path: Its path.

    Returns:
        Whether it is locked.
    """
    deadline = time.monotonic() + LOOKS_SECONDS
    while not try_lock(file, path):
        # Whoever only looks (`is_being_written`) shares its lock, and for a moment.
        if not try_lock(file, path, shared=True) or time.monotonic() > deadline:
            return False
        unlock(file)
        time.sleep(0.01)
    return True


class SteadyClock:
    """Seconds since the epoch that never go back, whatever is done to the machine's clock."""

    def __init__(
        self,
        latest: float = 0.0,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            latest: What it does not fall behind: the last time that was written.
            wall: The machine's clock.
            steady: Seconds from any beginning, at the usual pace.
        """
        self._wall, self._steady = wall, steady
        self._latest = latest, steady()

    def __call__(self) -> float:
        """The machine's time; where that was set back, what would be if it had not been."""
        latest, then = self._latest
        steady = self._steady()
        now = max(self._wall(), latest + steady - then)
        self._latest = now, steady
        return now


class Journal:
    """An open journal: append-only, one writer at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] | None = None,
        take: Callable[[Line], object] | None = None,
    ) -> None:
        """Open (and create) the journal of a sweep for writing.

        Args:
            folder: The sweep's folder; created when missing.
            clock: Where the time of a line comes from; None: a `SteadyClock` that goes on from
                the last line.
            take: Told every line that there is, oldest first, once it has been checked. A large
                journal takes seconds to read, which is done here in any case.

        Raises:
            JournalError: If another process holds the journal, the folder cannot be written, or a
                line other than the last is damaged.
        """
        self.folder = folder
        self.path = folder / JOURNAL_NAME
        self._file = self._locked()
        self._stored = stored_lines(self.path)
        try:
            if self._stored is not None:
                self._stored.hold(self._file)
            self.lines, self._before = checked_lines(self.path, take)
        except StoreError as error:
            self._remove_empty()
            self._file.close()
            raise JournalError(str(error)) from None
        except JournalError:
            self._give_free(empty=False)
            raise
        self.torn = self.path.stat().st_size - self.lines.size
        """Bytes of a last line that a crash had cut short; they are gone now."""
        self._file.truncate(self.lines.size)
        said = self.lines[-1].get("time") if self.lines else None
        self._clock = clock or SteadyClock(float(said) if isinstance(said, int | float) else 0.0)

    def _locked(self) -> FileIO:
        """The journal's file, open for appending and locked."""
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Unbuffered: what a full disk has refused must not be written by a later flush.
                file = self.path.open("a+b", buffering=0)
            except OSError as error:
                raise JournalError(
                    f"Cannot write the journal {self.path}: {error.strerror or error}. Set "
                    "`storage` to a folder that you can write to."
                ) from None
            try:
                free = _lock(file, self.path)
            except OSError as error:
                file.close()
                raise JournalError(
                    f"Cannot lock the journal {self.path}: {error.strerror or error}."
                ) from None
            if not free:
                file.close()
                raise JournalError(
                    f"Another process is running the sweep in {self.folder}. Wait for it, stop "
                    "it, or start another sweep with --new."
                )
            # Another process may have removed its empty journal just before we locked it.
            if self.path.is_file() and self.path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
            file.close()

    def now(self) -> float:
        """Seconds since the epoch, as its lines have them."""
        return self._clock()

    def events(self) -> Iterator[Event]:
        """Everything that it holds, oldest first."""
        return read_events(self.lines)

    def append(self, event: E) -> E:
        """Write one line and wait until the disk, and the store where there is one, has it.

        Args:
            event: What happened.

        Returns:
            The event as a reader will see it, with its number and its time.

        Raises:
            JournalError: If the disk or the store refuses it, or another process writes now.
        """
        stamped = replace(event, n=len(self.lines), time=round(self._clock(), 3)).to_line()
        text = json.dumps(without_nan(stamped), allow_nan=False, separators=(",", ":")).encode()
        raw = sealed(text, self._before)
        content = raw + b"\n"
        try:
            add_lines(self._file, content, size=self.lines.size, stored=self._stored)
        except StoreError as error:
            raise JournalError(str(error)) from None
        except OSError as error:
            what = remedy(str(error)) or "Free some space"
            raise JournalError(
                f"Cannot write to the journal {self.path}: {error.strerror or error}. Everything "
                f"that was recorded before is kept. {what}, then run the same command."
            ) from None
        line: Line = json.loads(text)
        self.lines.add(line, len(content))
        self._before = raw
        return type(event).from_line(line)

    def close(self) -> None:
        """Give the journal free for another writer; one that holds nothing leaves nothing."""
        if not self._file.closed and not self.lines:
            self._remove_empty()
        self._give_free(empty=not self.lines)

    def _remove_empty(self) -> None:
        """Leave nothing: a sweep that could not begin must not be listed, or be continued."""
        with suppress(OSError):
            if not self.path.stat().st_size:
                self.path.unlink()
                self.folder.rmdir()

    def _give_free(self, *, empty: bool) -> None:
        if self._stored is not None:
            self._stored.close(empty=empty)
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
