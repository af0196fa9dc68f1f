"""Temporary folders that have an owner: those of killed processes are removed by the next one."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

_NAME = re.compile(r"orchestrator-[a-z]+-([0-9a-f]{8})-(\d+)-s(\d+)-.+")


@cache
def machine_mark() -> str:
    """Tells this start of this machine, and this container on it, from others that share files."""
    marks: list[str] = []
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        marks.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("".join([platform.node(), *marks]).encode()).hexdigest()[:8]


def started(process: psutil.Process) -> int:
    """When a process began, in hundredths of a second after the start of the machine.

    With its id this tells it from a later process of the same id. The time of day would not: where
    the clock is set, even by a tenth of a second, the time of day at which a process began is
    another one from then on, and a living owner would be taken for dead.

    Args:
        process: A process of this machine.

    Returns:
        The time; it never changes.

    Raises:
        psutil.Error: The process is gone.
    """
    # Both are read with the clock as it is now, so that their difference is what the kernel counts.
    return round((process.create_time() - psutil.boot_time()) * 100)


def scratch_folder(what: str) -> Path:
    """Make a temporary folder of this process.

    Args:
        what: What it is for: one word.

    Returns:
        The folder, empty; its name says whose it is.
    """
    own = psutil.Process()
    prefix = f"orchestrator-{what}-{machine_mark()}-{own.pid}-s{started(own)}-"
    return Path(tempfile.mkdtemp(prefix=prefix))


@contextmanager
def scratch(what: str) -> Iterator[Path]:
    """A temporary folder of this process, removed afterwards.

    Args:
        what: What it is for: one word.

    Yields:
        The folder.
    """
    folder = scratch_folder(what)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def abandoned(what: str = "*") -> Iterator[Path]:
    """The temporary folders of ours whose process is not there any more.

    Args:
        what: What they are for; by default anything.

    Yields:
        Folders of this user on this machine.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"orchestrator-{what}-*"):
        named = _NAME.fullmatch(folder.name)
        with suppress(OSError):  # another command may remove it at this moment
            if not named or named[1] != machine_mark() or folder.stat().st_uid != os.getuid():
                continue
            if not _lives(named):
                yield folder


def remove_abandoned() -> None:
    """Remove the temporary folders of processes that were killed."""
    for folder in abandoned():
        shutil.rmtree(folder, ignore_errors=True)


def _lives(named: re.Match[str]) -> bool:
    """Whether the process of a folder's name is there; its number may be another's by now."""
    try:
        return started(psutil.Process(int(named[2]))) == int(named[3])
    except psutil.Error:
        return False
