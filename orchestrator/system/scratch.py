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

_NAME = re.compile(r"orchestrator-[a-z]+-([0-9a-f]{8})-(\d+)-(t?\d+)-.+")


@cache
def machine_mark() -> str:
    """Tells this start of this machine, and this container on it, from others that share files."""
    marks: list[str] = []
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        marks.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("".join([platform.node(), *marks]).encode()).hexdigest()[:8]


def birth(pid: int) -> str | None:
    """When a process was started, by a clock that nobody sets; tells it from others of its number.

    Args:
        pid: Its number.

    Returns:
        "t" and the ticks from the start of this machine, where Linux says so, else seconds; None
        where there is no such process.
    """
    try:
        # The name, in brackets, may hold anything; the 20th field after it is the start.
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return f"t{said.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        pass
    import psutil  # a machine with nothing but torch has Linux, and lacks it

    try:
        return str(int(psutil.Process(pid).create_time()))
    except psutil.Error:
        return None


def scratch_folder(what: str) -> Path:
    """Make a temporary folder of this process.

    Args:
        what: What it is for: one word.

    Returns:
        The folder, empty; its name says whose it is.
    """
    prefix = f"orchestrator-{what}-{machine_mark()}-{os.getpid()}-{birth(os.getpid())}-"
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
    return birth(int(named[2])) == named[3]
