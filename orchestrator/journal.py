"""The journal: one fsynced JSON line for everything that happened in a sweep, and the only truth.

The driver alone writes it, under a lock. MLflow, tables and the resumption of a sweep are functions
of its lines. A line cut short by a crash is removed when the journal is opened again: what it
would have said had not been acknowledged to anyone.

Every line holds `n` (its number), `time` (seconds since the epoch) and `event`, one of:

========================  ==========================================================================
`sweep_opened`            `sweep`, `experiment`, `tasks`, `yaml`, `origin`, `provenance`, `controls`
`trial_proposed`          `trial`, `overrides`, `by` (the searcher)
`trial_started`           `trial`, `attempt` (from 1; a continued sweep starts a trial again)
`stage_report`            `trial`, `report`: a rung of a task, or its end
`trial_ended`             `trial`, `state` (COMPLETE, FAILED, STOPPED), `reason`, `measures`,
                          `gain_interval`, `adapter` (folder relative to the sweep), `log`
`sweep_ended`             `front`, `champion` (a trial or null), `reason`
`champion_registered`     `trial`, `model`, `version`
========================  ==========================================================================

NaN and infinity are written as null: JSON has neither.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, cast

Line: TypeAlias = dict[str, Any]

JOURNAL_NAME = "journal.jsonl"


class JournalError(RuntimeError):
    """A journal that cannot be used; the message says why and what to do."""


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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise JournalError(
                f"Cannot write the journal {self.path}: {error}. Set `storage` to a folder that "
                "you can write to."
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise JournalError(
                f"Another process is running the sweep in {folder}. Wait for it, stop it, or start "
                "another sweep with --new."
            ) from None
        try:
            self._file.seek(0)
            content = self._file.read()
            self.lines: list[Line] = list(_whole_lines(self.path, content))
        except JournalError:
            self._file.close()
            raise
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            self._file.truncate(whole)

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
        try:
            self._file.write(text.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise JournalError(
                f"Cannot write to the journal {self.path}: {error}. What was written before is "
                "safe; run the same command again when there is room."
            ) from None
        line: Line = json.loads(text)
        self.lines.append(line)
        return line

    def close(self) -> None:
        """Give the journal free for another writer."""
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
