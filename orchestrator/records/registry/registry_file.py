"""`registry.jsonl` in a storage folder: append-only, checksummed and numbered as a journal is.

Whoever changes a champion appends a line under a lock; a line that a crash cut short was never
acknowledged, and is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from orchestrator.records.errors import RegistryError
from orchestrator.records.journal_lines import add_lines, is_vouched_for, sealed
from orchestrator.records.registry.change import Change
from orchestrator.system.file_lock import try_lock
from orchestrator.system.stores.errors import OvertakenError, StoreError
from orchestrator.system.stores.stored_lines import stored_lines
from orchestrator.system.strict_json import plain, without_nan

REGISTRY_NAME = "registry.jsonl"
_WAIT_SECONDS = 10.0


def read_changes(storage: Path) -> list[Change]:
    """Everything that the registry of a storage folder holds, oldest first.

    Args:
        storage: The storage folder.

    Returns:
        The changes; empty where there is no registry. Those of a later version are left out.

    Raises:
        RegistryError: If a line other than the last is damaged.
    """
    path = storage / REGISTRY_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error.strerror or error}.") from None
    return changes_in(path, content)


def changes_in(path: Path, content: bytes) -> list[Change]:
    """Everything that the content of a registry says, oldest first; see `read_changes`.

    Args:
        path: Its file, for messages.
        content: What the file holds; a last line without an end was never acknowledged.

    Returns:
        The changes. Those of a later version are left out.

    Raises:
        RegistryError: If a line is damaged.
    """
    return list(_changes(path, _whole(content)))


def _whole(content: bytes) -> list[bytes]:
    """The lines that were acknowledged."""
    return content[: content.rfind(b"\n") + 1].splitlines()


def _changes(path: Path, lines: list[bytes]) -> Iterator[Change]:
    before = b""
    for number, raw in enumerate(lines):
        line = _checked(path, number, raw, before)
        before = raw
        try:
            change = Change.from_line(line)
        except ValueError as error:
            raise RegistryError(
                f"{path}: line {number + 1} says what no version writes: {error}. Take the file "
                "from where it was made, or move it away: champions are then those of the "
                "verdicts in the journals."
            ) from None
        if change is not None:
            yield change


def _checked(path: Path, number: int, raw: bytes, before: bytes) -> dict[str, Any]:
    line: Any = None
    with suppress(ValueError):
        line = plain(raw)
    if not is_vouched_for(raw, before) or not isinstance(line, dict) or line.get("n") != number:
        raise RegistryError(
            f"{path}: line {number + 1} is not as it was written, or not the one that followed "
            f"line {number}. Nothing was changed. Restore the file from a copy, or move it away: "
            "champions are then those of the verdicts in the journals, and who promoted them "
            "since is in the moved file only. `orchestrate repair SWEEP` says what can be read."
        )
    return line


class OpenRegistry:
    """The registry of a storage folder, locked for writing."""

    def __init__(self, path: Path, file: FileIO, clock: Callable[[], float]) -> None:
        """Read what it holds; made by `open_registry`."""
        self.path, self._file, self._clock = path, file, clock
        self._stored = stored_lines(path)
        if self._stored is not None:
            try:
                self._stored.refresh(file)
            except StoreError as error:
                raise RegistryError(str(error)) from None
        content = path.read_bytes()
        lines = _whole(content)
        self.changes = list(_changes(path, lines))
        self._count, self._before = len(lines), lines[-1] if lines else b""
        self._size = content.rfind(b"\n") + 1
        if len(content) > self._size:
            file.truncate(self._size)

    def append(self, change: Change) -> Change:
        """Write one change and wait until the disk has it.

        Args:
            change: What happened.

        Returns:
            The change with its number and time.

        Raises:
            RegistryError: If the disk refuses it.
        """
        made = replace(change, n=self._count, time=round(self._clock(), 3))
        line = {"n": made.n, "time": made.time, **made.to_line()}
        text = json.dumps(without_nan(line), allow_nan=False, separators=(",", ":")).encode()
        raw = sealed(text, self._before)
        try:
            add_lines(self._file, raw + b"\n", size=self._size, stored=self._stored)
        except OvertakenError:
            raise RegistryError(
                f"Another machine has changed {self.path.name} at this moment, so nothing was "
                "changed here. Look at what it is now, then give the command again."
            ) from None
        except StoreError as error:
            raise RegistryError(str(error)) from None
        except OSError as error:
            raise RegistryError(
                f"Cannot write to {self.path}: {error.strerror or error}. Nothing was changed."
            ) from None
        self._size += len(raw) + 1
        self._count, self._before = self._count + 1, raw
        self.changes.append(made)
        return made


@contextmanager
def open_registry(
    storage: Path, *, clock: Callable[[], float] = time.time, wait_s: float = _WAIT_SECONDS
) -> Iterator[OpenRegistry]:
    """The registry of a storage folder, made when missing, for one writer at a time.

    Args:
        storage: The storage folder, which exists.
        clock: Where the time of a line comes from.
        wait_s: How long to wait for another writer.

    Yields:
        The registry.

    Raises:
        RegistryError: If it cannot be written, is damaged, or another process goes on holding it.
    """
    path = storage / REGISTRY_NAME
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise RegistryError(f"Cannot write {path}: {error.strerror or error}.") from None
    with file:
        try:
            free = try_lock(file, path, wait_s=wait_s)
        except OSError as error:
            raise RegistryError(f"Cannot lock {path}: {error.strerror or error}.") from None
        if not free:
            raise RegistryError(
                f"Another process has been writing {path} for {wait_s:.0f} s. Wait for it, then "
                "give the same command."
            )
        yield OpenRegistry(path, file, clock)
