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
"""Of a trial: what has gone. Of a sweep: of which trials something has, a line each time."""
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
    _append(trial_folder, entries)


def note_gone(sweep_folder: Path, trial: str) -> None:
    """Note, once it has gone, of which trial: an index then looks at that sweep's trials again.

    Args:
        sweep_folder: The sweep's folder.
        trial: The trial's name.

    Raises:
        OSError: It cannot be written.
    """
    _append(sweep_folder, [{"trial": trial, "time": time.time()}])


def _append(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    lines = "".join(json.dumps(dict(entry), sort_keys=True) + "\n" for entry in entries)
    with (folder / PRUNED_FILE).open("a", encoding="utf-8") as stream:
        stream.write(lines)
        stream.flush()
        os.fsync(stream.fileno())
    durable.sync(folder)


def pruned_words(place: Path) -> str | None:
    """When and why something was pruned.

    Args:
        place: Where it was, such as a trial's adapter.

    Returns:
        Words that follow "because"; None if it is there, or was not pruned.
    """
    entry = _entry(place)
    if entry is None:
        return None
    return (
        f"it was pruned{_day(entry.get('time'))} ({cut(str(entry.get('rule')))}); "
        "`orchestrate reproduce` trains such a trial again"
    )


def pruned_at(place: Path) -> float | None:
    """When something was pruned.

    Args:
        place: Where it was, such as a trial's adapter.

    Returns:
        Seconds since the epoch, 0.0 where the note has no such time; None if it is there, or was
        not pruned.
    """
    entry = _entry(place)
    if entry is None:
        return None
    when = entry.get("time")
    return float(when) if when is not None and _day(when) else 0.0


def kept_words(place: Path | None) -> str:
    """Whether an adapter is there.

    Args:
        place: Where it was kept; None: it was not.

    Returns:
        `kept`, `not kept` or `pruned on DAY`.
    """
    entry = None if place is None else _entry(place)
    if entry is not None:
        return f"pruned{_day(entry.get('time'))}"
    return "not kept" if place is None else "kept"


def _entry(place: Path) -> dict[str, Any] | None:
    """The note of what was pruned; None if it is there, or was not pruned."""
    if place.exists():
        return None
    for folder in list(place.parents)[:_DEEPEST]:
        file = folder / PRUNED_FILE
        if file.is_file():
            return _noted(file, place.relative_to(folder).as_posix())
    return None


def _noted(file: Path, place: str) -> dict[str, Any] | None:
    for line in reversed(file.read_text(encoding="utf-8").splitlines()):
        try:
            entry = plain(line)
        except ValueError:  # a line that a crash cut short
            continue
        # With a folder goes what lies in it: `adapters` holds those of all tasks but the last.
        if isinstance(entry, dict) and f"{place}/".startswith(f"{entry.get('place')}/"):
            return entry
    return None


def _day(when: object) -> str:
    """The day of a time, as words that follow; empty of what is no time that a clock shows."""
    try:
        return f" on {time.strftime('%Y-%m-%d', time.gmtime(float(when)))}"  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError, OSError):
        return ""
