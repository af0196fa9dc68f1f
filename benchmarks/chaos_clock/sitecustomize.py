"""Found by every Python that starts with this folder on its path: a clock that can be set back."""

import os
import time
from pathlib import Path

BACK_SECONDS = 3600.0
LOOK_SECONDS = 0.25


class _Clock:
    """`time.time`, as it is once a file is there."""

    def __init__(self, flag: str) -> None:
        self._really, self._steady, self._flag = time.time, time.monotonic, Path(flag)
        self._looked, self._back = self._steady(), 0.0

    def time(self) -> float:
        if not self._back and self._steady() - self._looked >= LOOK_SECONDS:
            self._looked = self._steady()
            self._back = BACK_SECONDS if self._flag.exists() else 0.0
        return self._really() - self._back


if "ORCHESTRATOR_CHAOS_CLOCK" in os.environ:
    time.time = _Clock(os.environ["ORCHESTRATOR_CHAOS_CLOCK"]).time
