"""The journal: one fsynced JSON line for everything that happened in a sweep, and the only truth.

The driver alone writes it, under a lock. MLflow, tables and the resumption of a sweep are functions
of its lines. A line cut short by a crash is removed when the journal is opened again: what it
would have said had not been acknowledged to anyone.

Every line holds `n` (its number), `time` (seconds since the epoch) and `event`, one of:

========================  ==========================================================================
`sweep_opened`            `sweep`, `experiment`, `tasks`, `yaml`, `origin`, `provenance`, `controls`
`sweep_continued`         `trials` (how many there are to be), `code`, `retried` (failed trials
                          that start over)
`trial_proposed`          `trial`, `overrides`, `by` (the searcher)
`trial_started`           `trial`, `attempt` (from 1; a continued sweep starts a trial again)
`stage_report`            `trial`, `report`: a rung of a task, or its end
`trial_ended`             `trial`, `state` (COMPLETE, FAILED, STOPPED), `reason`, `measures`,
                          `gain_interval`, `adapter` (folder relative to the sweep), `log`
`sweep_stopped`           `reason`, `trials` (those that failed): it was given up for now
`sweep_ended`             `front`, `champion` (a trial or null), `reason`, `runner_up`,
                          `finalists`, `intervals` (of the gain, by trial; all hold at once),
                          `compared` (for the choice among how many trials they allow)
`test_read`               `reading` (1, 2, ...; null where the champion could not be scored),
                          `purpose`, `champion`, `runner_up`, `sides` (by trial, and the base:
                          `row`, `metrics`, `per_example`), `unread` (why, by trial), `examples`,
                          `controls`, `accuracy`, `gain` and intervals
`champion_registered`     `trial`, `model`, `version`
========================  ==========================================================================

NaN and infinity are written as null: JSON has neither.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, TypeAlias, cast

from orchestrator.file_lock import LockingUnsupportedError, try_lock, unlock

Line: TypeAlias = dict[str, Any]

JOURNAL_NAME = "journal.jsonl"
LOOKS_SECONDS = 10.0
"""How long processes that only look at a journal may be in the way of one that will write it."""


class JournalError(RuntimeError):
    """A journal that cannot be used; the message says why and what to do."""


def path_within(folder: Path, named: str) -> Path:
    """The place of a folder that a journal names.

    Args:
        folder: The sweep's folder.
        named: What the journal says, relative to it.

    Returns:
        The path.

    Raises:
        JournalError: If it leads out of the folder: the journal may be anybody's.
    """
    if PurePath(named).is_absolute() or ".." in PurePath(named).parts:
        raise JournalError(
            f"The journal of {folder} names the path {named[:200]!r}, which does not lie in the "
            "sweep's folder. No sweep writes that, so it is not used. Take the sweep from where it "
            "was made."
        )
    return folder / named


def without_nan(value: Any) -> Any:
    """The same document with every NaN and infinity replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): without_nan(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in cast("list[Any]", value)]
    return value


def read_journal(folder: Path) -> list[Line]:
    """The whole lines of a sweep's journal, oldest first; a torn last line is left out.

    Args:
        folder: The sweep's folder.

    Returns:
        The lines; empty when there is no journal.

    Raises:
        JournalError: If a line other than the last is damaged.
    """
    path = folder / JOURNAL_NAME
    if not path.is_file():
        return []
    return list(_whole_lines(path, path.read_bytes()))


_OF_TRIALS = {"trial_proposed", "trial_started", "stage_report", "trial_ended"}


def standing_verdict(lines: Sequence[Line]) -> Line | None:
    """The last verdict of a sweep, unless trials went on after it.

    Args:
        lines: The journal.

    Returns:
        The line of `sweep_ended`, or None.
    """
    for line in reversed(lines):
        if line["event"] == "sweep_ended":
            return line
        if line["event"] in _OF_TRIALS:
            return None
    return None


def reading_due(lines: Sequence[Line]) -> bool:
    """Whether the verdict that stands has a champion whose test scores were never asked for.

    Args:
        lines: The journal.

    Returns:
        False, too, where it was tried and could not be done.
    """
    verdict = standing_verdict(lines)
    if verdict is None or verdict["champion"] is None:
        return False
    pair = (verdict["champion"], verdict.get("runner_up"))
    asked = [line for line in lines if line["event"] == "test_read"]
    return all((line["champion"], line["runner_up"]) != pair for line in asked)


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the sweep's journal open for writing at this moment."""
    path = folder / JOURNAL_NAME
    try:
        with path.open("rb") as file:
            return not try_lock(file, path, shared=True)
    except (FileNotFoundError, LockingUnsupportedError):
        return False  # where nothing can be locked, no sweep is run


def _whole_lines(path: Path, content: bytes) -> Iterator[Line]:
    complete = content[: content.rfind(b"\n") + 1]
    for number, raw in enumerate(complete.splitlines()):
        try:
            line = json.loads(raw)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise JournalError(
                f"{path}: line {number + 1} is damaged ({error}). Nothing was changed. Restore the "
                "file from a copy, or start another sweep with --new."
            ) from None
        if line.get("n") != number:
            raise JournalError(
                f"{path}: line {number + 1} carries the number {line.get('n')!r}, expected "
                f"{number}: lines are missing or were reordered. Nothing was changed."
            )
        yield line


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


class Journal:
    """An open journal: append-only, one writer at a time."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open (and create) the journal of a sweep for writing.

        Args:
            folder: The sweep's folder; created when missing.
            clock: Where the time of a line comes from.

        Raises:
            JournalError: If another process holds the journal, the folder cannot be written, or a
                line other than the last is damaged.
        """
        self.folder = folder
        self.path = folder / JOURNAL_NAME
        self._clock = clock
        self._file = self._locked()
        try:
            self._file.seek(0)
            content = self._file.read()
            self.lines: list[Line] = list(_whole_lines(self.path, content))
        except JournalError:
            self._file.close()
            raise
        self._size = content.rfind(b"\n") + 1
        if self._size != len(content):
            self._file.truncate(self._size)

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

    def append(self, event: str, **fields: Any) -> Line:
        """Write one line and wait until the disk has it.

        Args:
            event: One of the events in the module's table.
            **fields: What the event holds.

        Returns:
            The line as a reader will see it.

        Raises:
            JournalError: If the disk refuses it.
        """
        stamped = {"n": len(self.lines), "time": round(self._clock(), 3), "event": event, **fields}
        text = json.dumps(without_nan(stamped), allow_nan=False, separators=(",", ":"))
        content = text.encode() + b"\n"
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # Shortening a file needs no room. Should it fail all the same, the half line is left
            # out by whoever reads the journal next.
            with suppress(OSError):
                self._file.truncate(self._size)
            raise JournalError(
                f"Cannot write to the journal {self.path}: {error.strerror or error}. Everything "
                "that was recorded before is kept. Make room, then go on with the same command."
            ) from None
        self._size += len(content)
        line: Line = json.loads(text)
        self.lines.append(line)
        return line

    def close(self) -> None:
        """Give the journal free for another writer; one that holds nothing leaves nothing."""
        if not self._file.closed and not self.lines:
            # A sweep that could not begin must not be listed, or be continued.
            with suppress(OSError):
                self.path.unlink()
                self.folder.rmdir()
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
