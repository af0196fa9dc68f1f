"""Moments as a filter writes them: dates, times of day, seconds since the epoch, `7d ago`."""

from __future__ import annotations

import re
import time
from datetime import datetime

from orchestrator.registry.query.errors import QueryError
from orchestrator.registry.query.tree import Value

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|min|h|d|w)", re.IGNORECASE)


def moment(value: Value, *, said: str, name: str) -> float:
    """The moment that a value names.

    Args:
        value: `2026-11-01`, `2026-11-01T12:30` (of this machine's clock, unless a zone is written),
            a duration before `ago` (s, min, h, d, w), or seconds since the epoch.
        said: What the user calls the filter, for the message.
        name: What is compared with it, for the message.

    Returns:
        Seconds since the epoch.

    Raises:
        QueryError: If it is none of them.
    """
    duration = _DURATION.fullmatch(value.text)
    if duration is not None and value.ago:
        return time.time() - float(duration[1]) * _SECONDS[duration[2].lower()]
    if not value.ago:
        if value.number is not None:
            return value.number
        try:
            return datetime.fromisoformat(value.text).timestamp()
        except (ValueError, OverflowError, OSError):
            pass
    hint = f" Did you mean '{value.text} ago'?" if duration is not None else ""
    raise QueryError(
        f"`{said}`: {name} is a time, so it should be compared with one: 2026-11-01, "
        f"2026-11-01T12:30, '7d ago' (s, min, h, d, w) or seconds since the epoch; got "
        f"{value.text!r}.{hint}"
    )
