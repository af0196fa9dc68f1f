"""What was pruned of a trial: `pruned.jsonl` in its folder, written before anything goes.

The journal stays as it is: only the driver of a sweep writes it. Whoever misses what is not there
any more finds here when it went, and by which rule.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.system import durable
from orchestrator.system.strict_json import plain
from orchestrator.system.wording import cut

PRUNED_FILE = "pruned.jsonl"
_DEEPEST = 2
"""Folders between what is pruned and its trial's folder at most: `adapters/after-1`."""


def note_pruned(trial_folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Note what is about to go.

    Args:
        trial_folder: The trial's folder.
        entries: Of each, its `place` in that folder, `bytes`, `rule`, `time` and what else is to be
            kept of it.

    Raises:
        OSError: It cannot be written.
    """
    file = trial_folder / PRUNED_FILE
    lines = "".join(json.dumps(dict(entry), sort_keys=True) + "\n" for entry in entries)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())
    durable.sync(trial_folder)


def pruned_words(place: Path) -> str | None:
    """When and why something was pruned.

    Args:
        place: Where it was, such as a trial's adapter.

    Returns:
        Words that follow "because"; None if it is there, or was not pruned.
    """
    if place.exists():
        return None
    for folder in list(place.parents)[:_DEEPEST]:
        file = folder / PRUNED_FILE
        if file.is_file():
            return _told(file, place.relative_to(folder).as_posix())
    return None


def _told(file: Path, place: str) -> str | None:
    for line in reversed(file.read_text(encoding="utf-8").splitlines()):
        try:
            entry = plain(line)
        except ValueError:  # a line that a crash cut short
            continue
        if isinstance(entry, dict) and entry.get("place") == place:
            return (
                f"it was pruned{_day(entry.get('time'))} ({cut(str(entry.get('rule')))}); "
                "`orchestrate reproduce` trains such a trial again"
            )
    return None


def _day(when: object) -> str:
    """The day of a time, as words that follow; empty of what is no time that a clock shows."""
    try:
        return f" on {time.strftime('%Y-%m-%d', time.gmtime(float(when)))}"  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError, OSError):
        return ""
