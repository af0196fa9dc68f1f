"""What the pages read: the one door to the index, and the journals of single trials beside it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.api.journals import begun_sweeps
from orchestrator.api.trial_rows import columns as trial_columns
from orchestrator.api.trial_rows import trial_rows
from orchestrator.records.journal import is_being_written
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.journal_places import JournalPlaces
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState


class NotFoundError(LookupError):
    """There is no such sweep, trial or file; the message says which."""


@dataclass(frozen=True)
class Page:
    rows: list[dict[str, Any]]
    total: int


class Reading:
    """A storage folder as the pages see it."""

    def __init__(self, storage: Path) -> None:
        """Begin to read.

        Args:
            storage: The folder that holds the sweeps.
        """
        self.storage = storage
        self._places: dict[str, JournalPlaces] = {}
        self._lock = threading.Lock()
        self._rows: dict[str, Any] = {}

    def folder(self, sweep: str) -> SweepFolder:
        """A sweep's folder.

        Args:
            sweep: Its name, which came with an address.

        Returns:
            A folder of the storage that has a journal.

        Raises:
            NotFoundError: There is none.
        """
        folder = SweepFolder(self.storage / sweep)
        if Path(sweep).name != sweep or not folder.journal.is_file():
            raise NotFoundError(f"There is no sweep {sweep!r} in {self.storage}.")
        return folder

    def places(self, sweep: str) -> JournalPlaces:
        """Where in a sweep's journal which lines stand, as it is now."""
        folder = self.folder(sweep)
        with self._lock:
            places = self._places.setdefault(sweep, JournalPlaces(folder.path))
            places.refresh()
            return places

    def state(self, sweep: str, trials: Collection[str] = ()) -> SweepState:
        """What a journal says of a sweep and of some of its trials, without the others."""
        places = self.places(sweep)
        with self._lock:
            for trial in trials:
                if trial not in places:
                    raise NotFoundError(f"There is no trial {trial!r} in sweep {sweep!r}.")
            return places.state(trials)

    def revision(self, sweep: str) -> str:
        """What changes when a line is added to a sweep's journal."""
        status = self.folder(sweep).journal.stat()
        return f"{status.st_ino}-{status.st_size}-{self.running(sweep):d}"

    def running(self, sweep: str) -> bool:
        """Whether a driver works on a sweep now."""
        return is_being_written(self.folder(sweep).path)

    def sweeps(self) -> list[dict[str, Any]]:
        return [self.sweep_row(folder.name) for folder in begun_sweeps(self.storage)]

    def sweep_row(self, sweep: str) -> dict[str, Any]:
        view = self._whole(sweep)
        states = [t.state for t in view.trials]
        best = view.best
        return {
            "sweep": sweep, "kind": view.kind, "state": "ended" if view.ended else "open",
            "begun": view.opened, "changed": view.changed, "champion": view.champion,
            "gain": best.measure("gain") if best else None,
            "trials": len(states), "total": view.total,
            **{s.lower(): states.count(s) for s in ("COMPLETE", "FAILED", "STOPPED", "RUNNING", "PROPOSED")},
            "base": (view.experiment.get("model") or {}).get("name"), "tasks": view.tasks,
            "objectives": view.experiment.get("objectives"),
        }

    def _whole(self, sweep: str) -> SweepState:
        revision = self.revision(sweep)
        if self._rows.get(sweep, (None,))[0] != revision:
            view = SweepState.of(read_journal(self.folder(sweep).path), whole=False)
            self._rows[sweep] = (revision, view, trial_rows(view), trial_columns(view))
        return self._rows[sweep][1]

    def fields(self, sweep: str | None) -> list[str]:
        names = [sweep] if sweep else [f.name for f in begun_sweeps(self.storage)]
        return list(dict.fromkeys(c for n in names if self._whole(n) is not None for c in self._rows[n][3]))

    def search(self, where: str = "", *, order: Sequence[str] = (), limit: int | None = 50, offset: int = 0, sweep: str | None = None, columns: Sequence[str] | None = None) -> Page:
        names = [sweep] if sweep else [f.name for f in begun_sweeps(self.storage)]
        rows = [{"sweep": n, **r} for n in names if self._whole(n) is not None for r in self._rows[n][2]]
        for one in reversed(order):
            path = one.lstrip("-")
            rows.sort(key=lambda r: (r.get(path) is not None, r.get(path) if r.get(path) is not None else 0), reverse=one.startswith("-"))
        return Page(rows[offset:][:limit], len(rows))
