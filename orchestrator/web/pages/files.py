"""Files that are kept of a trial: listed, shown as text, or handed over; never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.system.byte_units import MIB
from orchestrator.web.reading import NotFoundError

MOST_FILES = 300
LOG_BYTES = 20_000


def kept_files(folder: Path) -> list[tuple[str, str]]:
    """Path and size of what is kept of a trial, sorted; links are left out."""
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [
        (path.relative_to(folder).as_posix(), _size(path.stat().st_size))
        for path in found[:MOST_FILES]
    ]


def log_tail(log: Path, sweep: Path) -> dict[str, Any] | None:
    """The end of a trial's log.

    Args:
        log: Where the journal says that it lies.
        sweep: The sweep's folder, which it must lie in.

    Returns:
        `text`, and `cut`: how much of it is left out; None where the trial has no log.
    """
    if not log.is_file() or not log.resolve().is_relative_to(sweep.resolve()):
        return None
    size = log.stat().st_size
    with log.open("rb") as file:
        file.seek(max(0, size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    return {"text": text, "cut": _size(size - LOG_BYTES) if size > LOG_BYTES else None}


def kept_file(folder: Path, path: str) -> Path:
    """A file of a trial.

    Args:
        folder: What is kept of the trial.
        path: Relative to it, from an address.

    Returns:
        The file.

    Raises:
        NotFoundError: There is none, or the path leads out of the folder.
    """
    inside = folder.resolve()
    try:
        found = (inside / path).resolve()
        if found.is_relative_to(inside) and found.is_file():
            return found
    except (OSError, ValueError):  # a name that no file can have
        pass
    raise NotFoundError(f"There is no file {path!r} of this trial.")


def _size(count: int) -> str:
    """A number of bytes for people."""
    if count < 1024:
        return f"{count} bytes"
    return f"{count / 1024:.1f} KiB" if count < MIB else f"{count / MIB:.1f} MiB"
