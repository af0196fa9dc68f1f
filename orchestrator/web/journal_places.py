"""Where in a journal which lines stand, so that those of one trial can be read alone.

A page that shows one trial of ten thousand must not read them all. The lines are found by how the
journal writes them, and are parsed only when asked for; their sums are left to `read_journal`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.records.errors import JournalError
from orchestrator.records.event import Line
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL

# As `Journal.append` writes: number, time, event, and then the trial, if it is of one.
_HEAD = re.compile(
    rb'\{"n":\d+,"time":[^,]+,"event":"(\w+)"(?:,"trial":("(?:[^"\\\x00-\x1f]|\\.)*"))?'
)


@dataclass
class JournalPlaces:
    """Where the lines of a journal begin and end, by the trial that they are of."""

    folder: Path
    size: int = 0
    """How many bytes were looked at."""
    _file: tuple[int, int] = (0, 0)
    _of_trial: dict[str, list[tuple[int, int]]] = field(
        default_factory=dict[str, "list[tuple[int, int]]"]
    )
    _of_none: list[tuple[int, int]] = field(default_factory=list["tuple[int, int]"])

    def refresh(self) -> None:
        """Look at what was appended; at everything, if it is another file or has shrunk."""
        path = self.folder / JOURNAL_NAME
        with path.open("rb") as file:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if identity != self._file or status.st_size < self.size:
                self._of_trial, self._of_none, self.size = {}, [], 0
                self._file = identity
            file.seek(self.size)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return  # being written, or cut short by a crash
                self._take(raw, (self.size, len(raw)))
                self.size += len(raw)

    def _take(self, raw: bytes, place: tuple[int, int]) -> None:
        found = _HEAD.match(raw)
        if found is None:  # another version's hand
            line = self._parsed(raw)
            trial = line.get("trial")
        else:
            trial = json.loads(found[2]) if found[2] else None
            if found[1] == b"champion_registered":
                trial = None  # of the sweep, though it names a trial
        if isinstance(trial, str):
            self._of_trial.setdefault(trial, []).append(place)
        else:
            self._of_none.append(place)

    def __contains__(self, trial: str) -> bool:
        return trial in self._of_trial

    def lines(self, trials: Collection[str]) -> Iterator[Line]:
        """The lines of the sweep itself, of the untouched base and of some trials, in order."""
        places = list(self._of_none)
        for trial in {BASE_TRIAL, *trials}:
            places += self._of_trial.get(trial, [])
        with (self.folder / JOURNAL_NAME).open("rb") as file:
            for begin, length in sorted(places):
                file.seek(begin)
                line = self._parsed(file.read(length))
                line.pop("sum", None)
                yield line

    def state(self, trials: Collection[str] = ()) -> SweepState:
        """What the journal says of the sweep and of some of its trials, as if it had no others."""
        return SweepState.of(self.lines(trials))

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        try:
            line = json.loads(raw)
        except ValueError as error:
            raise JournalError(self._damaged(str(error))) from None
        if not isinstance(line, dict) or not isinstance(line.get("event"), str):
            raise JournalError(self._damaged("a line should be an object with an `event`"))
        return line

    def _damaged(self, how: str) -> str:
        return (
            f"{self.folder / JOURNAL_NAME} is damaged ({how}). `orchestrate repair "
            f"{self.folder.name} --storage {self.folder.parent}` keeps what can be kept."
        )
