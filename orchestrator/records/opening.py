"""The first line of a journal alone: which sweep it is of, and where MLflow records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.records.errors import JournalError
from orchestrator.records.events import SweepOpened, read_event
from orchestrator.records.journal_facts import identity_of
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system.strict_json import plain

_LONGEST = 64 << 20
"""Bytes of a first line, which holds the experiment and its task files."""


@dataclass(frozen=True)
class Opening:
    """What the first line of a journal says."""

    folder: Path
    name: str
    identity: str
    """What no other sweep shares."""
    experiment: Mapping[str, Any]


def read_opening(folder: Path) -> Opening | None:
    """The first line of a sweep's journal, without the rest of it.

    Args:
        folder: The sweep's folder.

    Returns:
        What it says; None where there is no journal, or none whose first line can be read.
    """
    try:
        with SweepFolder(folder).journal.open("rb") as file:
            event = read_event(plain(file.readline(_LONGEST)))
    except (OSError, ValueError, KeyError, TypeError, JournalError):
        return None
    if not isinstance(event, SweepOpened):
        return None
    return Opening(folder, event.sweep or folder.name, identity_of(event), event.experiment)


def folder_of(storage: Path, sweep: str, identity: str | None) -> Path | None:
    """Where a sweep lies in a storage folder, also after its folder was renamed.

    Args:
        storage: The storage folder.
        sweep: The name of its folder when it began.
        identity: What no other sweep shares; None: any.

    Returns:
        Its folder; None where it is not there.
    """
    usual = read_opening(storage / sweep)
    if usual is not None and identity in {None, usual.identity}:
        return usual.folder
    if identity is None or not storage.is_dir():
        return None
    for folder in sorted(path for path in storage.iterdir() if path.is_dir()):
        found = read_opening(folder)
        if found is not None and found.identity == identity:
            return folder
    return None
