"""What the pages read: the one door to the index, and the journals of single trials beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.records.journal import is_being_written
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.begun import begun_sweeps, no_sweep
from orchestrator.registry.champions.champion import champion_names
from orchestrator.registry.index.index import Index, open_index
from orchestrator.registry.index.search import Page, Said
from orchestrator.registry.part import adapter_part, part_of
from orchestrator.system.user_error import UsageError

T = TypeVar("T")
_SAID = Said(where="filter", order="sort", columns="cols")


class NotFoundError(LookupError):
    """There is no such sweep, trial or file; the message says which."""


class Reading:
    """A storage folder as the pages see it; for any number of threads."""

    def __init__(self, storage: Path) -> None:
        """Begin to read.

        Args:
            storage: The folder that holds the sweeps.
        """
        self.storage = storage
        # The index is not to be shared by threads: this one asks it for all.
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._index: Index | None = None

    def _ask(self, question: Callable[[Index], T]) -> T:
        """An answer of the index as the journals are now."""

        def asked() -> T:
            if self._index is None:
                self._index = open_index(self.storage)
            else:
                self._index.refresh()
            return question(self._index)

        return self._asker.submit(asked).result()

    def close(self) -> None:
        """Give the index free."""

        def closed() -> None:
            if self._index is not None:
                self._index.close()
                self._index = None

        self._asker.submit(closed).result()
        self._asker.shutdown()

    def folder(self, sweep: str) -> SweepFolder:
        """A sweep's folder.

        Args:
            sweep: Its name, which came with an address.

        Returns:
            A folder of the storage that has a journal.

        Raises:
            NotFoundError: There is none.
        """
        # A name that leads elsewhere, or that no file can have, is no sweep's.
        if Path(sweep).name != sweep or "\x00" in sweep:
            raise NotFoundError(no_sweep(sweep, self.storage))
        folder = SweepFolder(self.storage / sweep)
        try:
            there = folder.journal.is_file()
        except OSError:  # longer than any name
            there = False
        if not there:
            raise NotFoundError(no_sweep(sweep, self.storage))
        return folder

    def state(self, sweep: str, trials: Collection[str] = (), *, cards: bool = False) -> SweepState:
        """What a journal says of a sweep and of some of its trials, without the others.

        Args:
            sweep: Its name.
            trials: The trials' names.
            cards: Whether the cards of their adapters are asked for, which name the trials whose
                training was taken over.

        Returns:
            The sweep, as if it had no other trials.

        Raises:
            NotFoundError: There is no such sweep or trial.
        """
        self.folder(sweep)
        try:
            read = adapter_part if cards else part_of
            return self._ask(lambda index: read(index, sweep, trials))[1]
        except UsageError as error:
            raise NotFoundError(str(error)) from None

    def revision(self, sweep: str) -> str:
        """What changes when a line is added to a sweep's journal, or its driver comes or goes."""
        status = self.folder(sweep).journal.stat()
        return f"{status.st_ino}-{status.st_size}-{self.running(sweep):d}"

    def running(self, sweep: str) -> bool:
        """Whether a driver works on a sweep now."""
        return is_being_written(self.folder(sweep).path)

    def sweep_names(self) -> list[str]:
        """The names of all sweeps, the one that was begun first first."""
        return [folder.name for folder in begun_sweeps(self.storage)]

    def champion_names(self) -> list[str]:
        """The names that have or had a champion, sorted."""
        return self._ask(lambda index: champion_names(self.storage, index))

    def sweeps(self) -> list[dict[str, Any]]:
        """Every sweep, the one that was begun last first, see `sweep_row`."""
        return [_row(found) for found in self._ask(lambda index: index.sweeps())][::-1]

    def sweep_row(self, sweep: str) -> dict[str, Any]:
        """What lists say of a sweep.

        Args:
            sweep: Its name.

        Returns:
            Its document in the index, with `over`, `stopped`, `failed`, `running_trials` (trials in
            these states), `total` (trials that there are to be) and `lasted`.
        """
        self.folder(sweep)
        (found,) = self._ask(lambda index: index.sweeps([sweep]))
        return _row(found)

    def fields(self, sweep: str | None) -> list[str]:
        """What a filter can name, in a sweep or in all: words, measures, settings, scores."""
        return [field.name for field in self._ask(lambda index: index.fields(sweep))]

    def settings(self, sweep: str | None) -> list[str]:
        """The settings among `fields`."""
        found = self._ask(lambda index: index.fields(sweep))
        return [field.name for field in found if field.group == "setting"]

    def measures(self, sweep: str | None) -> list[str]:
        """The measures among `fields` that any trial may have."""
        found = self._ask(lambda index: index.fields(sweep))
        return [field.name for field in found if field.group == "measure" and field.sql != "NULL"]

    def search(
        self,
        where: str = "",
        *,
        order: Sequence[str] = (),
        limit: int | None = 50,
        offset: int = 0,
        sweep: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> Page:
        """The trials that a filter keeps, see `Index.search`.

        Args:
            where: The filter; empty: every trial.
            order: Names, with `-` before one that descends.
            limit: How many at most; None: all.
            offset: How many to leave out before them.
            sweep: Of this sweep only.
            columns: Names; None: everything.

        Returns:
            Rows by column, and how many there are in all; never the untouched base.

        Raises:
            QueryError: A name is unknown, or the filter is none; the message says where.
        """
        return self._ask(
            lambda index: index.search(
                where or None, order=order, limit=limit, offset=offset, columns=columns,
                sweep=sweep, said=_SAID,
            )
        )  # fmt: skip


def _row(found: dict[str, Any]) -> dict[str, Any]:
    states = found.get("trials_by_state") or {}
    begun, changed = found.get("opened"), found.get("changed")
    return {
        "kind": "sweep", "champion": None, "base": None, "tasks": [], "problem": None, "front": [],
        "trial_seconds": 0.0, "hypervolume": None, "core_seconds": None, "test_gain": None,
        "test_gain_interval": None,
        **found,
        "ended": found.get("state") == "ended",
        "begun": begun,
        "lasted": changed - begun if begun is not None and changed is not None else None,
        "trials": sum(states.values()),
        "over": found.get("trials_finished", 0),
        "total": found.get("trials_planned"),
        "gain": found.get("best_gain") if found.get("champion") else None,
        "failed": states.get("FAILED", 0),
        "stopped": states.get("STOPPED", 0),
        "running_trials": states.get("RUNNING", 0),
    }  # fmt: skip
