"""A log for programs: one JSON object a line, each with the sweep, the trial and its attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from orchestrator.records.event import Event
from orchestrator.records.events import (
    StageReported,
    SweepContinued,
    SweepOpened,
    TrialEnded,
    TrialStarted,
)
from orchestrator.records.redaction import redacted_document
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.protocols import Observer
from orchestrator.system.strict_json import without_nan

LOG_VARIABLE = "ORCHESTRATOR_LOG"
"""The environment variable that names the file."""
_OF_REPORT = ("task", "task_index", "fraction", "step", "steps", "score", "loss", "tokens")


class StructuredLog:
    """An observer that writes what happens as JSON, and tells another observer."""

    def __init__(
        self, observer: Observer, file: TextIO, *, clock: Callable[[], float] = time.time
    ) -> None:
        """Begin with an empty sweep.

        Args:
            observer: Is told everything as well.
            file: Receives the lines.
            clock: Seconds since the epoch.
        """
        self._observer, self._file, self._clock = observer, file, clock
        self._sweep: str | None = None
        self._attempts: dict[str, int] = {}

    def note(self, text: str) -> None:
        """Log what the driver is doing."""
        self._write(None, {"event": "note", "text": text})
        self._observer.note(text)

    def event(self, event: Event, *, replayed: bool = False) -> None:
        """Log what is journalled now; what an earlier process journalled was logged by it."""
        match event:
            case SweepOpened():
                self._sweep = event.sweep
            case TrialStarted():
                self._attempts[event.trial] = event.attempt
            case _:
                pass
        if not replayed:
            line = event.to_line()
            self._write(line.get("trial"), {"n": event.n, **_said(event, line)})
        self._observer.event(event, replayed=replayed)

    def progress(self, trial: str, progress: dict[str, Any]) -> None:
        """Leave the steps of a trial to the other observer."""
        self._observer.progress(trial, progress)

    def _write(self, trial: str | None, said: dict[str, Any]) -> None:
        attempt = self._attempts.get(trial) if trial is not None else None
        place = {"sweep": self._sweep, "trial": trial, "attempt": attempt}
        document = {"time": round(self._clock(), 3), **place, **redacted_document(said)}
        self._file.write(json.dumps(without_nan(document), allow_nan=False) + "\n")
        self._file.flush()


def _said(event: Event, line: dict[str, Any]) -> dict[str, Any]:
    """What of an event is short enough for a log."""
    said: dict[str, Any] = {"event": line["event"]}
    if isinstance(event, SweepOpened | SweepContinued):
        return said
    if isinstance(event, StageReported):
        return said | {name: line["report"][name] for name in _OF_REPORT}
    if isinstance(event, TrialEnded):
        said["measures"] = event.measures
    plain = {k: v for k, v in line.items() if isinstance(v, str | int | float) or v is None}
    return said | {k: v for k, v in plain.items() if k not in {"n", "time", "trial"}}


@contextmanager
def structured_log(observer: Observer, path: str | None) -> Iterator[Observer]:
    """Meanwhile, log what an observer is told.

    Args:
        observer: The observer.
        path: The file, to which lines are appended; None or empty: nothing is logged.

    Yields:
        Who is to be told.

    Raises:
        SweepError: If the file cannot be written.
    """
    if not path:
        yield observer
        return
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: PTH123, SIM115 (also /dev/stderr)
    except OSError as error:
        raise SweepError(
            f"{LOG_VARIABLE} names the log {path}, which cannot be written: "
            f"{error.strerror or error}. Name a file in a folder that you can write to."
        ) from None
    with file:
        yield StructuredLog(observer, file)
