"""What people ask of a sweep: files in its folder, which its driver takes up.

Only the driver of a sweep writes its journal. A page or a command leaves a request, a file each;
the driver journals what became of it, and removes the file.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system import durable
from orchestrator.system.strict_json import half_character, plain, without_nan

Ask = Literal["stop", "add"]
_LARGEST = 1 << 20
"""Bytes of a request's file."""
_LONGEST = 2000
"""Characters of a reason, or of who gives it."""


@dataclass(frozen=True)
class Request:
    """One request."""

    ask: Ask
    """Stop a trial, or add one."""
    who: str
    """`USER@HOST`."""
    trial: str | None = None
    """The one to stop; of one to add, that whose settings it begins with, if any."""
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of one to add: dotted paths of the experiment, and values in place of that trial's."""
    reason: str = ""
    id: str = field(default_factory=lambda: f"{time.time_ns()}-{secrets.token_hex(4)}")
    """What no other request shares; in the order of time."""


def leave(folder: SweepFolder, request: Request) -> None:
    """Leave a request for a sweep's driver, for good.

    Args:
        folder: The sweep's.
        request: The request.

    Raises:
        OSError: If the disk refuses.
    """
    short = replace(request, reason=request.reason[:_LONGEST], who=request.who[:_LONGEST])
    text = json.dumps(asdict(short), allow_nan=False, indent=1)
    durable.write(folder.requests / f"{request.id}.json", text)


def pending(folder: SweepFolder) -> list[Request]:
    """The requests that no driver has taken up, the oldest first; files that are none are left."""
    if not folder.requests.is_dir():
        return []
    places = sorted(folder.requests.glob("*.json"))
    return [request for place in places if (request := _read(place)) is not None]


def remove(folder: SweepFolder, request: Request) -> None:
    """Remove a request that was taken up."""
    durable.remove(folder.requests / f"{request.id}.json")


def _read(place: Path) -> Request | None:
    """The request that a file holds; None of what is none, as anybody may leave a file there."""
    try:
        # Neither a pipe, which nobody may ever fill, nor a link that leads elsewhere.
        if place.is_symlink() or not place.is_file() or place.stat().st_size > _LARGEST:
            return None
        held = plain(place.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
    if not isinstance(held, Mapping) or half_character([held, place.stem]) is not None:
        return None
    if held != without_nan(held):
        return None
    found = Request(
        ask=held.get("ask", ""),
        who=held.get("who", ""),
        trial=held.get("trial"),
        changes=held.get("changes", {}),
        reason=held.get("reason", ""),
        id=place.stem,
    )
    texts = (found.ask, found.who, found.reason, "" if found.trial is None else found.trial)
    if not all(isinstance(text, str) and len(text) <= _LONGEST for text in texts):
        return None
    return found if found.ask in {"stop", "add"} and isinstance(found.changes, dict) else None
