"""States after learnt tasks, kept by what they follow from, for any trial of a storage folder.

A state is a sealed folder. It is written whole under another name and then renamed, so any number
of sweeps may write the same one at once. What was not used for longest makes room.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from orchestrator.loop.trial_checkpoints import SetAside
from orchestrator.system import durable
from orchestrator.system.byte_units import GIB
from orchestrator.system.seals import Maker, flaw, move_aside, read_seal, seal
from orchestrator.system.stores.opening import bring

MOST_BYTES = 2 * GIB
"""What all states of a storage folder may take."""
MOST_SHARE = 0.1
"""Share of what is free on the disk that they may take besides."""
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}


class KeptStates:
    """A folder of states; one that cannot be written is no reason to stop."""

    def __init__(self, folder: Path, most_bytes: float = MOST_BYTES) -> None:
        """Name the folder.

        Args:
            folder: Made with its first state.
            most_bytes: What all of them may take.
        """
        self._folder, self._most = folder, most_bytes

    def find(self, key: str) -> tuple[Path | None, SetAside | None]:
        """A state that is whole.

        Args:
            key: The hash of what it follows from.

        Returns:
            Its folder, None where there is none; and what was set aside because it is damaged.
        """
        place = self._folder / key
        try:
            if not place.is_dir():
                bring(place)
            wrong = flaw(place)
            if wrong is None and read_seal(place)["made_of"] != key:
                wrong = "it was made of something else"
            if wrong is not None:
                return None, SetAside(place, move_aside(place), wrong)
            os.utime(place)  # in use, so others make room first
        except FileNotFoundError:  # there is none, or it has just made room
            return None, None
        return place, None

    def keep(self, key: str, write: Callable[[Path], None], maker: Maker) -> bool:
        """Keep a state, unless there is one.

        Args:
            key: The hash of what it follows from.
            write: Writes it into a folder that is there.
            maker: The trial that has come to it.

        Returns:
            Whether it is kept; a full or read-only disk is not an error here.
        """
        place = self._folder / key
        if place.is_dir():
            return True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with durable.half(place) as fresh:
                fresh.mkdir()
                write(fresh)
                seal(fresh, Maker(maker.sweep, maker.trial, key))
                if not self._make_room(_size(fresh)):
                    return False
                durable.put(fresh, place)
        except OSError as error:
            return error.errno in _TAKEN  # another trial was quicker
        return True

    def _make_room(self, wanted: int) -> bool:
        """Remove what was not used for longest until so much more fits; whether it does."""
        sizes = {path: _size(path) for path in self._folder.iterdir() if path.name[0] != "."}
        taken = sum(sizes.values())
        most = min(self._most, taken + MOST_SHARE * shutil.disk_usage(self._folder).free)
        for path in sorted(sizes, key=_used):
            if taken + wanted <= most:
                break
            durable.remove(path)
            taken -= sizes[path]
        return taken + wanted <= most


def kept_bytes(folder: Path) -> int:
    """What the states of a folder take by now; 0 where there is none."""
    taken = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a sweep that runs makes room
            taken += path.stat().st_size if path.is_file() else 0
    return taken


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another sweep has made room
        return 0.0


def maker_of(state: Path) -> tuple[str, str]:
    """The sweep's identity and the name of the trial that has come to a state.

    Args:
        state: Its folder, as `KeptStates.find` gives it.

    Returns:
        Both.
    """
    found = read_seal(state)
    return str(found["sweep"]), str(found["trial"])
