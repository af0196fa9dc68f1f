"""The processes of a local Ray: finding them, and ending those that outlive it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from pathlib import Path

import psutil

LEAVE_SECONDS = 5.0
"""How long a process of a local Ray may take to end once Ray has been shut down."""


def ray_children(before: Set[psutil.Process]) -> list[psutil.Process]:
    """Our child processes that Ray has started: the roots of everything that belongs to it.

    Args:
        before: Our child processes before Ray was started.

    Returns:
        Those since then that run one of Ray's own programs.
    """
    import ray

    programs = str(Path(ray.__file__).parent)
    made: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child not in before and any(programs in word for word in child.cmdline()):
                made.append(child)
    return made


def with_descendants(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Some processes and all that descend from them, as they are now.

    Args:
        roots: Some of which may have ended.

    Returns:
        Each once.
    """
    found: dict[psutil.Process, None] = {}
    for root in roots:
        found[root] = None
        with suppress(psutil.NoSuchProcess):
            found.update(dict.fromkeys(root.children(recursive=True)))
    return list(found)


def kill(processes: Sequence[psutil.Process]) -> None:
    """End processes at once.

    Args:
        processes: Exactly those that are to end.
    """
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=LEAVE_SECONDS)


def end(processes: Sequence[psutil.Process]) -> None:
    """Give processes a few seconds to end by themselves, then end those that do not.

    Args:
        processes: Exactly those that are to end.
    """
    _, left = psutil.wait_procs(processes, timeout=LEAVE_SECONDS)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=LEAVE_SECONDS)
