"""Checkpoint folders of a trial: replaced atomically, sealed, found, set aside when damaged."""

from __future__ import annotations

import errno
import shutil
import sys
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.loop.trial_state import STATE_FILE, read_state
from orchestrator.system import durable
from orchestrator.system.seals import UNSEALED, Maker, flaw, move_aside, seal
from orchestrator.system.stores.opening import bring

_FORMER = ".old"
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}
"""What a folder that is to be renamed gets where another one stands in its new place."""


def keep_checkpoint(fresh: Path, kept: Path, maker: Maker) -> None:
    """Seal a whole checkpoint and put it in the place of the one before, which is kept beside it.

    Two processes may do so at a time: a member that was taken for lost goes on for a while beside
    the one that has its trials now. Either's checkpoint is one to go on from.

    Args:
        fresh: The new one, complete.
        kept: Its place; at every moment it, or a former one beside it, is a whole checkpoint.
        maker: Whose work it is.

    Raises:
        OSError: If the disk refuses it.
    """
    seal(fresh, maker)
    durable.sync(fresh)
    placed, former = False, kept
    while not placed:
        former = kept.with_name(f"{kept.name}.{uuid.uuid4().hex[:8]}{_FORMER}")
        with suppress(FileNotFoundError):  # it is the first, or another process has just moved it
            kept.replace(former)
        try:
            durable.put(fresh, kept)
            placed = True
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    formers = _formers(kept)
    for earlier in formers:
        if earlier != (former if former in formers else formers[0]):
            shutil.rmtree(earlier, ignore_errors=True)


@dataclass(frozen=True)
class SetAside:
    """Something foreign or damaged that was found where a trial's own work should be."""

    what: Path
    kept_as: Path
    because: str


def found_checkpoint(kept: Path, maker: Maker) -> tuple[Path | None, list[SetAside]]:
    """Find the last whole checkpoint of a trial; what is not, is set aside.

    Args:
        kept: Its place.
        maker: Whose work it should be.

    Returns:
        `kept`, where now the last whole checkpoint is, or None where the trial has none; and what
        was set aside.

    Raises:
        OSError: If the disk refuses to put a former one back.
    """
    bring(kept)  # another machine may have trained it last
    found, aside = last_whole([kept, *_formers(kept)], maker)
    if found is None or found == kept:
        return found, aside
    try:
        found.replace(kept)
    except OSError as error:  # another process may have put one there, or be about to
        if error.errno not in {*_TAKEN, errno.ENOENT}:
            raise
    return kept, aside


def last_whole(
    places: Iterable[Path], maker: Maker, *, leave: bool = False
) -> tuple[Path | None, list[SetAside]]:
    """The first of some folders that is a whole checkpoint of a trial.

    Args:
        places: The folders, the newest first; those that are empty or not there do not count.
        maker: Whose work it should be.
        leave: Whether an empty folder stays where one was set aside.

    Returns:
        The folder, None where none is whole; and what was before it and is not whole: it has been
        set aside.
    """
    aside: list[SetAside] = []
    for place in places:
        if not place.is_dir() or not any(place.iterdir()):
            continue
        wrong = flaw(place, maker)
        if wrong == UNSEALED and maker.unsealed and (place / STATE_FILE).is_file():
            wrong = None
        if wrong is None:
            return place, aside
        aside.append(SetAside(place, move_aside(place), wrong))
        if leave:
            place.mkdir()
    return None, aside


def furthest_first(folders: Iterable[Path]) -> list[Path]:
    """Checkpoints of one trial, in the order in which they are to be gone on from.

    That is told by how far the trial had come, and not by when they were written, as a clock may
    have gone back between two.

    Args:
        folders: The checkpoints.

    Returns:
        Those with most reports first, and of those with as many what was written last. One whose
        state cannot be read comes before them all: it is looked at, and set aside.
    """
    found = list(folders)
    if len(found) < 2:
        return found
    return sorted(found, key=_reached, reverse=True)


def _reached(folder: Path) -> tuple[int, float]:
    # Renaming a folder changes nothing in it: its state is as old as the checkpoint.
    file = folder / STATE_FILE
    try:
        written = file.stat().st_mtime
    except OSError:  # not whole, or removed meanwhile
        return 0, 0.0
    try:
        return len(read_state(folder).reports), written
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return sys.maxsize, written


def _formers(kept: Path) -> list[Path]:
    """The checkpoints that were in a place before, the furthest first; see `keep_checkpoint`."""
    found = kept.parent.glob(f"{kept.name}*{_FORMER}")
    return furthest_first(path for path in found if path.is_dir())
