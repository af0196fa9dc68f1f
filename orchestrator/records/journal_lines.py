"""Reading a journal: each line is checked, and the long ones are read from the file when asked for.

Last in a line stands `sum`, a hash of it and of the line before; lines of earlier versions have
none, and readers are not given it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, cast, overload

from orchestrator.records.errors import JournalError
from orchestrator.records.event import Line
from orchestrator.system.formatting import count
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.strict_json import plain

if TYPE_CHECKING:
    from orchestrator.system.stores.stored_lines import StoredLines

JOURNAL_NAME = "journal.jsonl"
SUM_END = re.compile(rb',"sum":"([0-9a-f]{16})"\}$')
"""How a line ends that has a sum."""
_SUM_BYTES = len(',"sum":"0123456789abcdef"}')


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


def checked_lines(
    path: Path, take: Callable[[Line], object] | None = None
) -> tuple[JournalLines, bytes]:
    """The whole lines of a journal, each checked; they are not kept in memory.

    Args:
        path: The journal.
        take: Told every line once it has been checked, oldest first.

    Returns:
        The lines, and the bytes of the last without its end.

    Raises:
        JournalError: If a line other than the last is damaged.
    """
    lines, before = JournalLines(path), b""
    with path.open("rb") as file, _uncollected():
        for number, raw in enumerate(file):
            if not raw.endswith(b"\n"):
                break  # cut short by a crash
            line = checked_line(path, number, raw[:-1], before)
            before = raw[:-1]
            lines.add(line, len(raw))
            if take is not None:
                take(line)
    return lines, before


@contextmanager
def _uncollected() -> Generator[None]:
    """Look for no circles meanwhile.

    Lines have none, and their million values would be looked at again and again: a seventh of the
    time of reading ten thousand trials.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _whole_lines(path: Path, content: bytes) -> Iterator[Line]:
    complete = content[: content.rfind(b"\n") + 1]
    before = b""
    for number, raw in enumerate(complete.splitlines()):
        yield checked_line(path, number, raw, before)
        before = raw


def checked_line(path: Path, number: int, raw: bytes, before: bytes) -> Line:
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
    try:
        line = plain(raw)
    except ValueError as error:
        raise JournalError(
            f"{path}: line {number + 1} is damaged ({error}). {_cure(path, number)}"
        ) from None
    if not isinstance(line, dict) or not isinstance(cast("Line", line).get("event"), str):
        shown = raw[:60].decode(errors="replace")
        raise JournalError(
            f"{path}: line {number + 1} is damaged: it should be an object with an `event`, got "
            f"{shown}. {_cure(path, number)}"
        )
    line = cast("Line", line)
    if number == 0 and line["event"] != "sweep_opened":
        raise JournalError(
            f"{path}: line 1 should be `sweep_opened`, got `{line['event']}`: the beginning is "
            f"missing. {_cure(path, number)}"
        )
    if line.get("n") != number:
        raise JournalError(
            f"{path}: line {number + 1} carries the number {line.get('n')!r}, expected "
            f"{number}: lines are missing or were reordered. {_cure(path, number)}"
        )
    if is_vouched_for(raw, before) is False:
        raise JournalError(
            f"{path}: line {number + 1} is not as it was written, or not the one that followed "
            f"line {number}: its sum differs. {_cure(path, number)}"
        )
    line.pop("sum", None)
    return line


def _cure(path: Path, number: int) -> str:
    """What to do about a journal whose line of that number is not what it should be."""
    return (
        f"Nothing was changed; {count(number, 'line')} before it can be read. `orchestrate repair "
        f"{path.parent.name} --storage {path.parent.parent}` keeps what can be kept; or restore "
        "the file from a copy, or start another sweep with --new."
    )


def line_sum(before: bytes, text: bytes) -> str:
    """What vouches for a line: a hash of the line before and of its own text."""
    return hashlib.sha256(before + b"\n" + text).hexdigest()[:16]


def sealed(text: bytes, before: bytes) -> bytes:
    """A line with the sum that vouches for it.

    Args:
        text: The line's JSON, an object with something in it.
        before: The line before, without its end; empty for the first.

    Returns:
        The line, without its end.
    """
    return text[:-1] + b',"sum":"' + line_sum(before, text).encode() + b'"}'


def add_lines(file: FileIO, content: bytes, *, size: int, stored: StoredLines | None) -> None:
    """Write whole lines behind others; back from it, the disk has them, and the store if any.

    Args:
        file: A file of lines, unbuffered: what a full disk has refused must not be written by a
            later flush.
        content: The lines.
        size: How many bytes of the file count.
        stored: The lines as a store holds them; None where the file is its own truth.

    Raises:
        OSError: The disk refuses them.
        StoreError: The store does.
    """
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file.fileno(), rest) :]
        os.fsync(file.fileno())
        if stored is not None:
            stored.add(content)
    except (OSError, StoreError):
        # Shortening a file needs no room. Should it fail all the same, half a line is left out by
        # whoever reads the file next, and one that the store lacks by whoever opens it.
        with suppress(OSError):
            file.truncate(size)
        raise


def is_vouched_for(raw: bytes, before: bytes) -> bool | None:
    """Whether a line is as it was written, after the one that it followed; None: it has no sum."""
    found = SUM_END.search(raw, max(0, len(raw) - _SUM_BYTES))
    if found is None:
        return None
    return found[1].decode() == line_sum(before, raw[: found.start()] + b"}")


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
        # Numbers of names, as a journal has seven lines a trial and more.
        self._names = array("I")
        self._trials = array("I")
        self._numbers: dict[str | None, int] = {None: 0}

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
        trial = line.get("trial")
        self._names.append(self._number(line["event"]))
        self._trials.append(self._number(trial if isinstance(trial, str) else None))

    def _number(self, name: str | None) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    def as_they_are(self) -> JournalLines:
        """The lines that there are now, for another thread: others may be added here meanwhile."""
        now = JournalLines(self._path)
        now._ends, now._last = self._ends[:], self._last
        now._names, now._trials, now._numbers = self._names[:], self._trials[:], self._numbers
        return now

    def last(self, event: str, trial: str | None = None) -> Line | None:
        """The last line of an event (of a trial); None where there is none."""
        name, of = self._numbers.get(event), self._numbers.get(trial)
        for number in range(len(self) - 1, -1, -1):
            if self._names[number] == name and (trial is None or self._trials[number] == of):
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
