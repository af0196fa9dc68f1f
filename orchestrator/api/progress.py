"""What a sweep does, told to Python's logging."""

from __future__ import annotations

import logging
from typing import Any

from orchestrator.records.events import Event, TrialEnded

_log = logging.getLogger(__name__)


class LoggedProgress:
    """Logs what a sweep does, at level INFO."""

    def note(self, text: str) -> None:
        """Log what the driver is doing."""
        _log.info("%s", text)

    def event(self, event: Event, *, replayed: bool = False) -> None:
        """Log how trials end; those of an earlier process were logged by it."""
        if not replayed and isinstance(event, TrialEnded):
            _log.info("%s: %s%s", event.trial, event.state, event.reason and f", {event.reason}")

    def progress(self, trial: str, progress: dict[str, Any]) -> None:
        """Leave the steps of a trial out."""
