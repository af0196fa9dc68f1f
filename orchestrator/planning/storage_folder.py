"""The storage folder before a sweep: where it would be made, whether it is writable, free disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def existing_folder(storage: Path) -> Path:
    """The storage folder, or the nearest one above it that exists."""
    path = storage.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_disk(storage: Path) -> int | None:
    """Free bytes where the storage folder is, or would be made; None when that is unknown."""
    try:
        return shutil.disk_usage(existing_folder(storage)).free
    except OSError:
        return None


def probe_storage(folder: Path) -> None:
    """Write, sync and remove a small file, as the journal would; an OSError says what fails."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".orchestrate-") as probe:
        probe.write(b"written")
        probe.flush()
        os.fsync(probe.fileno())
