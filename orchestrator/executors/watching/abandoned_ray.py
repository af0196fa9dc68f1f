"""What is left of a local Ray whose driver was killed: ended, by id, by the next command.

While a Ray of our own runs, a note in a temporary folder says which processes are its. A driver
that ends removes the note; one that was killed leaves it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from orchestrator.executors.ray_processes import kill
from orchestrator.system.scratch import abandoned, birth, scratch

_NOTE = "ray.json"


@contextmanager
def noted(processes: Sequence[psutil.Process], session: Path | None) -> Iterator[None]:
    """Meanwhile a note says which processes belong to this Ray.

    Args:
        processes: Those that it has started.
        session: The folder of its logs and sockets.

    Yields:
        Nothing.
    """
    known = [(process.pid, born) for process in processes if (born := birth(process.pid))]
    document = {"processes": known, "session": None if session is None else str(session)}
    with scratch("ray") as folder:
        (folder / _NOTE).write_text(json.dumps(document), encoding="utf-8")
        yield


def end_abandoned() -> list[str]:
    """End what killed drivers have left of their Rays on this machine, and remove its files.

    Returns:
        What was ended, in words, one for each Ray of which processes were left.
    """
    ended: list[str] = []
    for folder in abandoned("ray"):
        try:
            document: dict[str, Any] = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
            processes = [
                psutil.Process(pid) for pid, born in document["processes"] if birth(pid) == born
            ]
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            continue  # another command is at it, or the note was not written
        kill(processes)
        session = document.get("session")
        if session and Path(session).name.startswith("session_"):
            shutil.rmtree(session, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        if processes:
            names = ", ".join(str(process.pid) for process in processes)
            ended.append(f"of a Ray whose sweep was killed, processes were ended: {names}")
    return ended
