"""The file beside a trial's log that says how far the trial is."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.loop.work_meter import Progress
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system.strict_json import without_nan


class ProgressFile:
    """How far a trial is, in a file beside its log.

    Not a report: a report makes every worker wait for the others and for the driver, which cost a
    fifth of a small trial's time.
    """

    SECONDS = 0.5
    """Least time between two writes."""

    def __init__(self, sweep_folder: Path, trial: str) -> None:
        """Name the file.

        Args:
            sweep_folder: The sweep's folder.
            trial: The trial's name.
        """
        self._path = SweepFolder(sweep_folder).progress(trial)
        self._written = -math.inf

    def write(self, progress: Progress) -> None:
        """Say how far the trial is, unless that was said a moment ago."""
        now = time.monotonic()
        if now - self._written < self.SECONDS:
            return
        self._written = now
        half = self._path.with_suffix(".half")
        # Nothing depends on it: on a full disk it stays behind, and the trial says what is wrong.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            half.write_text(json.dumps(without_nan(asdict(progress))), encoding="utf-8")
            half.replace(self._path)

    def read(self) -> dict[str, Any] | None:
        """What was said last; None before the first word."""
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Forget it."""
        with suppress(OSError):  # what is in the disk's way is met, and said, where it matters
            self._path.unlink(missing_ok=True)
