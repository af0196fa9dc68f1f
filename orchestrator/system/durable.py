"""Files that outlive their writer: whole under their name or not there at all, also after a crash.

A rename alone does not survive a loss of power: the new name may reach the disk before the content.
So content first, then the name, then the folder that the name stands in. In the working folder of a
storage at an address all of it is in the store before it has its name here (`stores.mirror`).
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.system.stores.mirror import mirror_of

_REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space, or have the quota raised",
    errno.EROFS: "Let it be writable again",
    errno.ESTALE: "Mount it again",
    errno.EIO: "See to the disk",
}
"""What is to be done where a disk refuses to write, by what it says."""


def remedy(reason: str) -> str | None:
    """What is to be done about a disk that refuses to write.

    Args:
        reason: What an error says.

    Returns:
        A sentence without its end; None where it is not a disk that the error speaks of.
    """
    return next((what for number, what in _REMEDIES.items() if os.strerror(number) in reason), None)


def put(fresh: Path, place: Path) -> None:
    """Give a finished file or folder its name, for good.

    Args:
        fresh: What was written, beside `place`; it is gone afterwards.
        place: Its name. A file that is there is replaced; a folder must not be there.

    Raises:
        OSError: If the disk, or the store, refuses; `place` is then what it was.
    """
    sync(fresh)
    mirror = mirror_of(place)
    receipt = None if mirror is None else mirror.put(fresh, place)
    fresh.replace(place)
    _sync_one(place.parent)
    if receipt is not None:
        receipt.note()


def write(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Its name; the folder is made when missing.
        content: What it holds; text as UTF-8.

    Raises:
        OSError: If the disk refuses; `path` is then what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with half(path) as fresh:
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)
        put(fresh, path)


def write_all(files: Mapping[Path, str]) -> None:
    """Write several files, each whole or not at all; a folder is waited for once.

    Args:
        files: By name, what each holds; folders are made when missing.

    Raises:
        OSError: If the disk refuses; each file is then what it was, or what it was to be.
    """
    folders = dict.fromkeys(path.parent for path in files)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        with half(path) as fresh:
            fresh.write_bytes(content.encode())
            _sync_one(fresh)
            fresh.replace(path)
    for folder in folders:
        _sync_one(folder)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all.

    Args:
        source: The file.
        target: Its copy; a file that is there is replaced.

    Raises:
        OSError: If the disk refuses; `target` is then what it was.
    """
    with half(target) as fresh:
        shutil.copyfile(source, fresh)
        put(fresh, target)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, whole or not at all.

    Args:
        source: The folder.
        target: Its copy, which must not be there.

    Raises:
        OSError: If the disk refuses; there is then no copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with half(target) as fresh:
        shutil.copytree(source, fresh)
        put(fresh, target)


def add_to_folder(source: Path, target: Path) -> None:
    """Copy the content of a folder into one that other writers add to as well.

    Args:
        source: The folder.
        target: Where its files go, under the same names; made when missing.

    Raises:
        OSError: If the disk refuses, or the folder that `target` stands in is missing.
    """
    target.mkdir(exist_ok=True)
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            shutil.copyfile(path, place)
    sync(target)
    _sync_one(target.parent)
    if (mirror := mirror_of(target)) is not None:
        mirror.add(source, target)


def remove(path: Path) -> None:
    """Remove a file or a folder, whatever of it is there; what cannot be removed stays.

    Args:
        path: Its name.

    Raises:
        OSError: If the store of its storage refuses; it is then there still.
    """
    if (mirror := mirror_of(path)) is not None:
        mirror.remove(path)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def half(place: Path) -> Iterator[Path]:
    """A name beside another that no other process uses; what is left of it is removed.

    Args:
        place: Where what is written is to be `put` in the end.

    Yields:
        The name, under which there is nothing yet.
    """
    fresh = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.half")
    try:
        yield fresh
    finally:
        if fresh.is_dir():
            shutil.rmtree(fresh, ignore_errors=True)
        else:
            with suppress(OSError):  # a disk that refuses that as well has been told of
                fresh.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or a folder with all that is in it."""
    if path.is_dir():
        for inner in path.iterdir():
            sync(inner)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
