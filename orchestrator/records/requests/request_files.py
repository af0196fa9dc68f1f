"""What people ask of a sweep: files in its folder, which its driver takes up.

Only the driver of a sweep writes its journal. A page or a command leaves a request, a file each;
the driver journals what became of it, and removes the file.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system import durable

Ask = Literal["stop", "add"]


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
    text = json.dumps(asdict(request), allow_nan=False, indent=1)
    durable.write(folder.requests / f"{request.id}.json", text)


def pending(folder: SweepFolder) -> list[Request]:
    """The requests that no driver has taken up, the oldest first; files that are none are left."""
    if not folder.requests.is_dir():
        return []
    found = (_read(place.read_text(encoding="utf-8", errors="replace"), place.stem)
             for place in sorted(folder.requests.glob("*.json")))  # fmt: skip
    return [request for request in found if request is not None]


def remove(folder: SweepFolder, request: Request) -> None:
    """Remove a request that was taken up."""
    (folder.requests / f"{request.id}.json").unlink(missing_ok=True)


def _read(text: str, name: str) -> Request | None:
    try:
        held = json.loads(text)
    except ValueError:
        return None
    if not isinstance(held, Mapping) or held.get("ask") not in {"stop", "add"}:
        return None
    changes, trial = held.get("changes"), held.get("trial")
    return Request(
        ask=held["ask"],
        who=str(held.get("who", "")),
        trial=trial if isinstance(trial, str) else None,
        changes=dict(changes) if isinstance(changes, Mapping) else {},
        reason=str(held.get("reason", "")),
        id=name,
    )
