"""The journal: one fsynced JSON line for everything that happened in a sweep, and the only truth.

The driver alone writes it, under a lock. MLflow, tables and the resumption of a sweep are functions
of its lines. A line cut short by a crash is removed when the journal is opened again: what it
would have said had not been acknowledged to anyone.

Every line holds `n` (its number), `time` (seconds since the epoch) and `event`, one of:

========================  ==========================================================================
`sweep_opened`            `sweep`, `sweep_id`, `experiment`, `tasks`, `yaml`, `origin`,
                          `provenance`, `controls`
`sweep_continued`         `trials` (how many there are to be), `code`, `packages`, `python`,
                          `platform`, `base` (where it is now), `retried` (trials that start over);
                          `sweep_id` where the opening has none
`trial_proposed`          `trial`, `overrides`, `by` (the searcher)
`trial_started`           `trial`, `attempt` (from 1; a continued sweep starts a trial again),
                          `versions` (of packages, by name)
`stage_report`            `trial`, `report`: a rung of a task, or its end
`trial_ended`             `trial`, `state` (COMPLETE, FAILED, STOPPED), `reason`, `measures`,
                          `gain_interval`, `adapter` and `log` (relative to the sweep's folder),
                          `adapter_sha256`
`set_aside`               `trial`, `what`, `kept_as` (both relative to the sweep), `because`: nobody
                          uses it any more
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

NaN and infinity are written as null: JSON has neither. Last in a line stands `sum`, a hash of it
and of the line before; lines of earlier versions have none, and readers are not given it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, TypeAlias, cast, overload

from orchestrator.file_lock import LockingUnsupportedError, try_lock, unlock

Line: TypeAlias = dict[str, Any]

JOURNAL_NAME = "journal.jsonl"
LOOKS_SECONDS = 10.0
"""How long processes that only look at a journal may be in the way of one that will write it."""

SERIES = ("losses", "learning_rates", "per_example", "head_only_per_example")
"""What of a report grows with steps and examples, and is seldom read again."""
_SUM = re.compile(rb',"sum":"([0-9a-f]{16})"\}$')


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


def without_series(line: Line) -> Line:
    """The same line; a report without its `SERIES`."""
    if line["event"] != "stage_report":
        return line
    report = {key: value for key, value in line["report"].items() if key not in SERIES}
    return {**line, "report": report}


def _whole_lines(path: Path, content: bytes) -> Iterator[Line]:
    complete = content[: content.rfind(b"\n") + 1]
    before = b""
    for number, raw in enumerate(complete.splitlines()):
        yield _checked(path, number, raw, before)
        before = raw


def _checked(path: Path, number: int, raw: bytes, before: bytes) -> Line:
    """The line that some bytes hold.

    Args:
        path: The journal, for messages.
        number: The line's, from 0.
        raw: The line, without its end.
        before: The line before it.

    Returns:
        The line without its sum.

    Raises:
        JournalError: If it is not the line that was written here.
    """
    cure = "Nothing was changed. Restore the file from a copy, or start another sweep with --new."
    try:
        line = json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise JournalError(f"{path}: line {number + 1} is damaged ({error}). {cure}") from None
    if not isinstance(line, dict) or not isinstance(cast("Line", line).get("event"), str):
        shown = raw[:60].decode(errors="replace")
        raise JournalError(
            f"{path}: line {number + 1} is damaged: it should be an object with an `event`, got "
            f"{shown}. {cure}"
        )
    line = cast("Line", line)
    if number == 0 and line["event"] != "sweep_opened":
        raise JournalError(
            f"{path}: line 1 should be `sweep_opened`, got `{line['event']}`: the beginning is "
            f"missing. {cure}"
        )
    if line.get("n") != number:
        raise JournalError(
            f"{path}: line {number + 1} carries the number {line.get('n')!r}, expected "
            f"{number}: lines are missing or were reordered. {cure}"
        )
    found = _SUM.search(raw)
    if found is not None and found[1].decode() != _sum(before, raw[: found.start()] + b"}"):
        raise JournalError(
            f"{path}: line {number + 1} is not as it was written, or not the one that followed "
            f"line {number}: its sum differs. {cure}"
        )
    line.pop("sum", None)
    return line


def _sum(before: bytes, text: bytes) -> str:
    """What vouches for a line: a hash of the line before and of its own text."""
    return hashlib.sha256(before + b"\n" + text).hexdigest()[:16]


class JournalLines(Sequence[Line]):
    """A journal's lines, read from its file whenever they are asked for.

    Reports hold a score of each example: kept in memory they would be hundreds of KiB a trial.
    """

    def __init__(self, path: Path) -> None:
        """Begin empty.

        Args:
            path: The journal.
        """
        self._path = path
        self._ends = array("Q")
        self._last: Line = {}
        self._of: list[tuple[str, str | None]] = []

    @property
    def size(self) -> int:
        """How many bytes of the journal they are."""
        return self._ends[-1] if self._ends else 0

    def add(self, line: Line, length: int) -> None:
        """Know of one more line, which the file already holds.

        Args:
            line: The line.
            length: Its bytes in the file, its end included.
        """
        self._ends.append(self.size + length)
        self._last = line
        trial: str | None = line.get("trial")
        self._of.append((sys.intern(line["event"]), sys.intern(trial) if trial else None))

    def last(self, event: str, trial: str | None = None) -> Line | None:
        """The last line of an event (of a trial); None where there is none."""
        for number in range(len(self) - 1, -1, -1):
            found, of = self._of[number]
            if found == event and trial in {None, of}:
                return self[number]
        return None

    def raw(self, start: int, stop: int) -> bytes:
        """The bytes of some lines, as they stand in the file."""
        begin = self._ends[start - 1] if start else 0
        if stop <= start:
            return b""
        with self._path.open("rb") as file:
            file.seek(begin)
            return file.read(self._ends[stop - 1] - begin)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Line: ...
    @overload
    def __getitem__(self, index: slice) -> list[Line]: ...
    def __getitem__(self, index: int | slice) -> Line | list[Line]:
        if isinstance(index, slice):
            numbers = range(len(self))[index]
            if numbers.step == 1:
                return [_parsed(raw) for raw in self.raw(numbers.start, numbers.stop).splitlines()]
            return [self[number] for number in numbers]
        number = range(len(self))[index]
        # Copied, as a line that is read is the reader's own.
        return (
            dict(self._last) if number == len(self) - 1 else _parsed(self.raw(number, number + 1))
        )

    def __iter__(self) -> Iterator[Line]:
        with self._path.open("rb") as file:
            for _, raw in zip(range(len(self)), file, strict=False):
                yield _parsed(raw)


def last_line(lines: Sequence[Line], event: str, trial: str | None = None) -> Line | None:
    """The last line of an event.

    Args:
        lines: A journal's.
        event: The event.
        trial: Of this trial only; None: of any, or none.

    Returns:
        The line; None where there is none.
    """
    if isinstance(lines, JournalLines):
        return lines.last(event, trial)
    for line in reversed(lines):
        if line["event"] == event and (trial is None or line.get("trial") == trial):
            return line
    return None


def _parsed(raw: bytes) -> Line:
    line: Line = json.loads(raw)
    line.pop("sum", None)
    return line


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
            self.lines, self._before = self._taken_in()
        except JournalError:
            self._file.close()
            raise
        self._file.truncate(self.lines.size)

    def _taken_in(self) -> tuple[JournalLines, bytes]:
        """The whole lines of the file, each checked, and the bytes of the last."""
        lines, before = JournalLines(self.path), b""
        with self.path.open("rb") as file:
            for number, raw in enumerate(file):
                if not raw.endswith(b"\n"):
                    break  # cut short by a crash
                line = _checked(self.path, number, raw[:-1], before)
                before = raw[:-1]
                lines.add(line, len(raw))
        return lines, before

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
        text = json.dumps(without_nan(stamped), allow_nan=False, separators=(",", ":")).encode()
        raw = text[:-1] + b',"sum":"' + _sum(self._before, text).encode() + b'"}'
        content = raw + b"\n"
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # Shortening a file needs no room. Should it fail all the same, the half line is left
            # out by whoever reads the journal next.
            with suppress(OSError):
                self._file.truncate(self.lines.size)
            raise JournalError(
                f"Cannot write to the journal {self.path}: {error.strerror or error}. Everything "
                "that was recorded before is kept. Make room, then go on with the same command."
            ) from None
        line: Line = json.loads(text)
        self.lines.add(line, len(content))
        self._before = raw
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
