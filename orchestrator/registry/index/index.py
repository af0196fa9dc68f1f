"""An open index: sweeps, trials and fields of a storage folder, as its journals are now."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from orchestrator.records.parts.journal_scan import Span
from orchestrator.registry.begun import no_sweep
from orchestrator.registry.index import database as files
from orchestrator.registry.index.fields import known_fields
from orchestrator.registry.index.kept_documents import KeptDocument, kept_documents
from orchestrator.registry.index.refresh import refresh, unread_bytes
from orchestrator.registry.index.search import Page, Said, Search, Wanted
from orchestrator.registry.index.sweep_rows import spans_of
from orchestrator.registry.query.errors import QueryError
from orchestrator.registry.query.fields import Field
from orchestrator.system.stores.opening import opened
from orchestrator.system.user_error import UsageError

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Lines:
    """Where some lines of a journal are."""

    spans: tuple[Span, ...]
    touched: int
    """The last line of a trial's own, of any trial: a verdict before it is void."""


class Index:
    """The index of one storage folder. Not to be shared by threads."""

    def __init__(self, storage: Path) -> None:
        """Open the index, made when there is none.

        Args:
            storage: The storage folder. Where nothing can be written in it, the index is made in
                memory.
        """
        self.storage = storage
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        if not self.storage.is_dir():
            return files.in_memory()
        try:
            return files.connect(files.index_file(self.storage))
        except (OSError, sqlite3.Error):
            return files.in_memory()

    @property
    def unread(self) -> int:
        """How many bytes of journals `refresh` would read."""
        return self._sound(lambda: unread_bytes(self._database, self.storage))

    def refresh(self) -> Index:
        """Read what was appended to the journals since the last time; gives the index itself."""
        try:
            self._sound(lambda: refresh(self._database, self.storage))
        except sqlite3.Error:
            # Read-only, full, or held by a process that does not let go: it is only a copy.
            self._database.close()
            self._database = files.in_memory()
            refresh(self._database, self.storage)
        return self

    def rebuild(self) -> Index:
        """Throw the index away and make it again of the journals; gives the index itself."""
        self._database.close()
        files.throw_away(files.index_file(self.storage))
        self._database = self._open()
        return self.refresh()

    def search(
        self,
        where: str | None = None,
        *,
        order: Sequence[str] = (),
        limit: int | None = 50,
        offset: int = 0,
        columns: Sequence[str] | None = None,
        sweep: str | Sequence[str] | None = None,
        said: Said | None = None,
    ) -> Page:
        """The trials that a filter keeps.

        Args:
            where: The filter, see docs/browse.md; None: every trial.
            order: Names, each ascending, or with `-` before it descending. Trials without a value
                come last; equal ones stay in the order of their sweeps and of their proposal.
            limit: How many at most; None: all.
            offset: How many to leave out before them.
            columns: Names; None: everything that any of the sweeps has.
            sweep: The names of the sweeps to look in; None: all.
            said: What the user calls these, for messages.

        Returns:
            A page: rows by column, and how many trials there are in all.

        Raises:
            QueryError: A name is unknown, or the filter is none; the message says where.
            UsageError: There is no such sweep.
        """
        wanted = Wanted(where, order, limit, offset, columns)
        sweeps = self._numbers(sweep)
        return self._sound(lambda: Search(self._database, sweeps, said or Said()).page(wanted))

    def cells(
        self,
        where: str | None,
        *,
        order: Sequence[str] = (),
        columns: Sequence[str],
        sweep: str | Sequence[str] | None = None,
        said: Said | None = None,
    ) -> Iterator[Sequence[Any]]:
        """The trials that a filter keeps, one by one, however many there are; see `Search.cells`.

        Args:
            where: As of `search`, as what follows.
            order: Names.
            columns: Names, at most 500.
            sweep: The names of the sweeps to look in.
            said: What the user calls these.

        Returns:
            The cells of each trial, in the order of the columns. Nothing else may be asked of the
            index before the last one.

        Raises:
            QueryError: A name is unknown, or the filter is none.
            UsageError: There is no such sweep.
        """
        wanted, sweeps = Wanted(where, order, None, 0, columns), self._numbers(sweep)
        return self._sound(lambda: Search(self._database, sweeps, said or Said()).cells(wanted))[1]

    def sweeps(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The sweeps, oldest first.

        Args:
            names: Only these, see `Index.search`; None: all.

        Returns:
            A document each (`sweep_values.sweep_document`) with the `sweep`'s name, its `folder`
            and what is `in_use` under its name (`records.registry.in_use`); one with a `problem`
            cannot be read, and has nothing else.

        Raises:
            UsageError: There is no such sweep.
        """
        numbers = self._numbers(names)
        rows = self._database.execute(
            "SELECT id, folder, problem, document, in_use FROM sweep "
            "ORDER BY COALESCE(begun, 0), folder"
        ).fetchall()
        kept = None if numbers is None else {number for number, _ in numbers}
        return [
            {
                "sweep": folder, **json.loads(document), "in_use": json.loads(in_use),
                **({} if problem is None else {"problem": problem}),
                "folder": str(self.storage / folder),
            }
            for number, folder, problem, document, in_use in rows
            if kept is None or number in kept
        ]  # fmt: skip

    def front(self, sweep: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The trials on the front of a sweep, as `search` gives them; none before it has ended."""
        page = self.search("on_front = true", limit=None, columns=columns, sweep=sweep)
        return page.rows

    def lines(self, sweep: str, trials: Sequence[str]) -> Lines:
        """Where the lines of some trials are in a sweep's journal.

        Args:
            sweep: The sweep's name.
            trials: The trials' names; "" are the lines that are of no trial.

        Returns:
            Their places, in the order of the journal.

        Raises:
            UsageError: There is no such sweep.
        """
        number = next(number for number, _ in self._numbers(sweep) or ())
        spans = self._sound(lambda: spans_of(self._database, number, trials))
        query = "SELECT touched FROM sweep WHERE id = ?"
        ((touched,),) = self._sound(lambda: self._database.execute(query, (number,)).fetchall())
        return Lines(tuple(sorted(spans, key=lambda span: span.n)), touched)

    def documents(self, sweep: str, trials: Sequence[str]) -> list[KeptDocument]:
        """Some trials as programs get them.

        Args:
            sweep: The sweep's name.
            trials: The trials' names; a few hundred at once, as each is some kilobytes.

        Returns:
            The documents of those that there are, in the order of the names.

        Raises:
            UsageError: There is no such sweep.
        """
        number = next(number for number, _ in self._numbers(sweep) or ())
        return self._sound(lambda: kept_documents(self._database, number, trials))

    def fields(self, sweep: str | Sequence[str] | None = None) -> list[Field]:
        """What can be named in a filter, an order or a choice of columns.

        Args:
            sweep: Among the trials of these sweeps; None: of all.

        Returns:
            Fields with their name, kind and group.

        Raises:
            UsageError: There is no such sweep.
        """
        sweeps = self._numbers(sweep)
        numbers = None if sweeps is None else [number for number, _ in sweeps]
        return self._sound(lambda: list(known_fields(self._database, numbers).values()))

    def _numbers(self, names: str | Sequence[str] | None) -> list[tuple[int, str]] | None:
        """The numbers of sweeps by their names."""
        if names is None:
            return None
        wanted = [names] if isinstance(names, str) else list(names)
        query = "SELECT folder, id, problem FROM sweep ORDER BY begun"
        found = {folder: (number, problem) for folder, number, problem in self._ask(query)}
        for name in wanted:
            if name not in found:
                raise UsageError(no_sweep(name, self.storage))
            if found[name][1] is not None:
                raise QueryError(found[name][1])
        return [(found[name][0], name) for name in wanted]

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        return self._sound(lambda: self._database.execute(query).fetchall())

    def _sound(self, ask: Callable[[], Answer]) -> Answer:
        """An answer of the index; one that is damaged is made again, and asked once more."""
        try:
            return ask()
        except sqlite3.Error as error:
            if not files.is_damaged(error):
                raise
        self._database.close()
        files.throw_away(files.index_file(self.storage))
        self._database = self._open()
        refresh(self._database, self.storage)
        return ask()

    def close(self) -> None:
        """Give the file free."""
        self._database.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_index(storage: Path | str) -> Index:
    """The index of a storage folder, as its journals are now.

    Args:
        storage: The folder that sweeps are kept in.

    Returns:
        The index; `with open_index(...) as index` closes it.
    """
    return Index(opened(storage)).refresh()


__all__ = ["Index", "Page", "Said", "open_index"]
