"""A file of lines that are only added to (a journal, the registry), whose truth is in a store.

The file here is a copy: it is read as any other, and brought to what the store holds when it is
opened. A line counts once the store has it.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from orchestrator.system.file_lock import try_lock
from orchestrator.system.stores.errors import OvertakenError, StoreError
from orchestrator.system.stores.lease import Lease, held_elsewhere, take
from orchestrator.system.stores.mirror import OWN_FOLDER, Mirror, mirror_of
from orchestrator.system.stores.segments import SPAN, SegmentedLines

WRITER = "writer"
"""In the store's folder of a sweep: who writes its journal."""


class StoredLines:
    """The lines of one file in a working folder, as the store holds them."""

    def __init__(self, mirror: Mirror, path: Path) -> None:
        """Name the file.

        Args:
            mirror: What its working folder stands for.
            path: The file, such as `<sweep>/journal.jsonl`.
        """
        self._mirror, self._path = mirror, path
        inside = path.relative_to(mirror.root)
        self._name = inside.with_suffix("").as_posix()
        self._writer = (inside.parent / WRITER).as_posix()
        self._note = mirror.root / OWN_FOLDER / "lines" / f"{self._name}.json"
        self._lease: Lease | None = None
        self._lines: SegmentedLines | None = None
        self._size = 0

    # ----------------------------------------------------------------------------------- reading

    def refresh(self, file: IO[bytes]) -> None:
        """Bring the file to what the store holds.

        Args:
            file: It, open for reading and writing, and locked.

        Raises:
            StoreError: If the store does not answer, or lines are missing there.
        """
        self._take_in(file, self._begin(file))

    def _begin(self, file: IO[bytes]) -> SegmentedLines:
        """Whole packs that were read before are not read again, where the file still has them."""
        known: dict[str, int] = {}
        with suppress(OSError, ValueError):
            known = json.loads(self._note.read_text(encoding="utf-8"))
        slots, self._size = known.get("additions", 0), known.get("size", 0)
        if os.fstat(file.fileno()).st_size < self._size:
            slots = self._size = 0
        return SegmentedLines(self._mirror.store, self._name, read=slots)

    def _take_in(self, file: IO[bytes], lines: SegmentedLines) -> None:
        begun = lines.count
        content = lines.read_on()
        _write_from(file, self._size, content)
        self._lines = lines
        if begun == lines.count - lines.count % SPAN:
            return
        # What is noted ends with a pack, so that the pack after it can be made whole.
        open_ones = lines.open_size
        self._keep(lines.count - lines.count % SPAN, self._size + len(content) - open_ones)

    def _keep(self, additions: int, size: int) -> None:
        self._note.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._note.with_name(f"{self._note.name}.{uuid.uuid4().hex[:8]}.half")
        fresh.write_text(json.dumps({"additions": additions, "size": size}), encoding="utf-8")
        fresh.replace(self._note)

    # ----------------------------------------------------------------------------------- writing

    def hold(self, file: IO[bytes]) -> None:
        """Become the one writer, and bring the file to what the store holds.

        Args:
            file: It, open for reading and writing, and locked against processes of this machine.

        Raises:
            HeldError: If another process is the writer.
            StoreError: If the store does not answer, or lines are missing there.
        """
        sweep = f"{self._mirror.address}/{self._writer.rpartition('/')[0]}"
        self._lease = take(self._mirror.store, self._writer, f"the sweep in {sweep}")
        try:
            self.refresh(file)
            assert self._lines is not None  # `refresh` has made it
            late = self._lines.fence(f"{self._lease.mark} {platform.node()}")
            if late:
                file.seek(0, os.SEEK_END)
                file.write(late)
        except BaseException:
            self.close(empty=False)
            raise

    def add(self, lines: bytes) -> None:
        """Add lines that the file has already; they count from now on.

        Args:
            lines: Whole lines.

        Raises:
            OvertakenError: If another process writes now; these lines do not count.
            StoreError: If the store does not answer.
        """
        assert self._lines is not None  # it was refreshed or held
        if (self._lease is not None and self._lease.overtaken) or not self._lines.add(lines):
            raise OvertakenError(
                f"Another process has gone on with {self._mirror.address}/{self._name}: this one "
                f"had not renewed its lease in time, and what it was about to add does not count."
            )

    def close(self, *, empty: bool) -> None:
        """Let the next writer begin.

        Args:
            empty: Whether nothing was written, so that nothing is left behind.
        """
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if empty:
            with suppress(StoreError):
                self._mirror.store.remove(self._mirror.store.below(self._name))
        lease.give_back()

    def held_elsewhere(self) -> bool:
        """Whether a process on any machine seems to be the writer."""
        return held_elsewhere(self._mirror.store, self._writer)


def stored_lines(path: Path) -> StoredLines | None:
    """The lines of a file as a store holds them; None where the file is its own truth."""
    mirror = mirror_of(path)
    return None if mirror is None else StoredLines(mirror, path)


def refresh_file(mirror: Mirror, path: Path) -> None:
    """Bring a file of lines to what the store holds, unless a process here is writing it.

    Args:
        mirror: What its working folder stands for.
        path: The file; made where the store has lines of it.
    """
    lines = StoredLines(mirror, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if not try_lock(file, path):
            return  # its writer has at least what the store has
        lines.refresh(file)
        empty = not os.fstat(file.fileno()).st_size
        if empty:  # no sweep has begun there
            path.unlink()
    if empty:
        with suppress(OSError):
            path.parent.rmdir()


def _write_from(file: Any, size: int, content: bytes) -> None:
    """Let a file end with some content after so many bytes, and write nothing that is there."""
    file.seek(size)
    there = file.read()
    if there == content:
        return
    same = len(there) if content.startswith(there) else 0
    if not same:
        file.truncate(size)
    file.seek(0, os.SEEK_END)
    file.write(content[same:])
    file.flush()
    os.fsync(file.fileno())
