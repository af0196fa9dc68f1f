"""Asking an index for trials: filter, order, page and columns."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.registry.index.fields import known_fields
from orchestrator.registry.query.compiler import Condition, Names, compiled
from orchestrator.registry.query.fields import Field, chosen, find
from orchestrator.registry.query.parser import parse
from orchestrator.registry.query.values import Held, given

_MOST_COLUMNS = 500
"""Of one result: SQLite allows 2,000."""
_FEW = 1000
"""Rows of a page whose columns are read when it is known which rows they are."""


@dataclass(frozen=True)
class Page:
    """Some of the trials that a search has found."""

    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """By column; None where a trial has no value."""
    total: int = 0
    """How many trials fulfil the filter."""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """What the user calls the parts of a search, for messages."""

    where: str = "where"
    order: str = "order"
    columns: str = "columns"


@dataclass(frozen=True)
class Wanted:
    """A search."""

    where: str | None = None
    order: Sequence[str] = ()
    limit: int | None = 50
    offset: int = 0
    columns: Sequence[str] | None = None
    """None: all."""


class Search:
    """Searches among the trials of some sweeps."""

    def __init__(
        self,
        database: sqlite3.Connection,
        sweeps: Sequence[tuple[int, str]] | None,
        said: Said,
    ) -> None:
        """Know what can be named.

        Args:
            database: The index.
            sweeps: The sweeps' numbers and names; None: all.
            said: What the user calls the parts of a search.
        """
        self._database, self._said = database, said
        self._sweeps = None if sweeps is None else [number for number, _ in sweeps]
        names = [repr(name) for _, name in sweeps or ()]
        self._where = f"sweep {', '.join(names)}" if names else "any sweep here"
        self.fields = known_fields(database, self._sweeps)

    def page(self, wanted: Wanted) -> Page:
        """The trials that a search finds.

        Args:
            wanted: The search.

        Returns:
            A page of them.

        Raises:
            QueryError: It names what there is not, or is not written as a search is.
        """
        condition = self._condition(wanted.where)
        columns = self._columns(wanted.columns)
        order, ordered_by = self._order(wanted.order)
        tables = _tables({*condition.fields, *ordered_by})
        matched = f"FROM {tables} WHERE {condition.sql}"
        limit = -1 if wanted.limit is None else wanted.limit
        page = f"{matched} ORDER BY {order} LIMIT ? OFFSET ?"
        parameters = [*condition.parameters, limit, wanted.offset]
        if len(columns) <= _MOST_COLUMNS and not 0 <= limit <= _FEW:
            tables = _tables({*condition.fields, *ordered_by, *columns})
            page = f"FROM {tables} WHERE {condition.sql} ORDER BY {order} LIMIT ? OFFSET ?"
            select = ", ".join(one.sql for one in columns)
            found = self._database.execute(f"SELECT {select} {page}", parameters)
            rows = list(map(_reader(columns), found))
        else:
            # Few rows of many columns: sorting need not carry the columns.
            found = self._database.execute(f"SELECT trial.id {page}", parameters)
            rows = self._rows([number for (number,) in found], columns)
        total = wanted.offset + len(rows)
        if len(rows) == limit or (wanted.offset and not rows):
            count = f"SELECT count(*) {matched}"
            ((total,),) = self._database.execute(count, condition.parameters).fetchall()
        return Page(rows, total, tuple(one.name for one in columns))

    def cells(self, wanted: Wanted) -> tuple[tuple[str, ...], Iterator[Sequence[Any]]]:
        """The trials that a search finds, without holding them all.

        Args:
            wanted: The search, with at most 500 columns.

        Returns:
            The columns, and the cells of one trial after the other as they are in SQLite: true and
            false are 1 and 0, what is no number and no text is JSON in bytes.

        Raises:
            QueryError: See `page`.
        """
        condition, columns = self._condition(wanted.where), self._columns(wanted.columns)
        order, ordered_by = self._order(wanted.order)
        tables = _tables({*condition.fields, *ordered_by, *columns})
        rows = self._database.execute(
            f"SELECT {', '.join(one.sql for one in columns)} FROM {tables} "
            f"WHERE {condition.sql} ORDER BY {order} LIMIT ? OFFSET ?",
            [*condition.parameters, -1 if wanted.limit is None else wanted.limit, wanted.offset],
        )
        return tuple(one.name for one in columns), rows

    def _condition(self, where: str | None) -> Condition:
        said = self._said.where
        condition = Condition()
        if where is not None and where.strip():
            names = Names(lambda name: self._find(name, said), self._holds_numbers, said)
            condition = compiled(parse(where, said=said), names)
        elif where:
            parse(where, said=said)  # says what is wrong
        if self._sweeps is not None:
            among = f"trial.sweep IN ({', '.join('?' * len(self._sweeps))})"
            condition.sql = f"{among} AND {condition.sql}"
            condition.parameters = [*self._sweeps, *condition.parameters]
        return condition

    def _find(self, name: str, said: str) -> Field:
        return find(name, self.fields, said=said, where=self._where)

    def _columns(self, names: Sequence[str] | None) -> list[Field]:
        if names is None:
            return list(self.fields.values())
        return chosen(names, self.fields, said=self._said.columns, where=self._where)

    def _order(self, names: Sequence[str]) -> tuple[str, list[Field]]:
        """`ORDER BY`, and the fields in it: trials without a value come last."""
        terms: list[str] = []
        fields: list[Field] = []
        for name in names:
            found = self._find(name.removeprefix("-"), self._said.order)
            fields.append(found)
            terms += [f"{found.sql} IS NULL", f"{found.sql}{' DESC' if name[0] == '-' else ''}"]
        return ", ".join([*terms, "sweep.begun", "sweep.folder", "trial.number"]), fields

    def _holds_numbers(self, found: Field) -> bool:
        query = f"SELECT 1 FROM {_tables({found})} WHERE typeof({found.sql}) IN ('integer', 'real')"
        if self._sweeps is not None:
            query += f" AND trial.sweep IN ({', '.join('?' * len(self._sweeps))})"
        return self._database.execute(f"{query} LIMIT 1", self._sweeps or []).fetchone() is not None

    def _rows(self, ids: Sequence[int], columns: Sequence[Field]) -> list[dict[str, Any]]:
        """Trials by their numbers, a table of values at a time."""
        rows = {number: dict.fromkeys(one.name for one in columns) for number in ids}
        wanted = json.dumps(list(ids))
        for group in _groups(columns):
            query = (
                f"SELECT trial.id, {', '.join(one.sql for one in group)} FROM {_tables(set(group))}"
                " WHERE trial.id IN (SELECT value FROM json_each(?))"
            )
            read = _reader(group)
            for number, *cells in self._database.execute(query, (wanted,)):
                rows[number].update(read(cells))
        return list(rows.values())


def _reader(columns: Sequence[Field]) -> Callable[[Sequence[Held]], dict[str, Any]]:
    """What makes a row of the cells of some columns."""
    names = [one.name for one in columns]
    truths = [one.name for one in columns if one.kind == "truth"]

    def row(cells: Sequence[Held]) -> dict[str, Any]:
        values: Sequence[Any] = cells
        if bytes in set(map(type, cells)):
            values = [given(cell) if type(cell) is bytes else cell for cell in cells]
        made: dict[str, Any] = dict(zip(names, values, strict=True))
        for name in truths:
            made[name] = bool(made[name])
        return made

    return row


def _tables(fields: Iterable[Field]) -> str:
    blocks = sorted({one.block for one in fields if one.block is not None})
    joined = (f" LEFT JOIN values_{n} ON values_{n}.trial = trial.id" for n in blocks)
    return "trial JOIN sweep ON sweep.id = trial.sweep" + "".join(joined)


def _groups(columns: Sequence[Field]) -> list[list[Field]]:
    """Columns of one table of values together, and not too many of them."""
    by_block: dict[int | None, list[Field]] = {}
    for one in columns:
        by_block.setdefault(one.block, []).append(one)
    return [
        group[at : at + _MOST_COLUMNS]
        for group in by_block.values()
        for at in range(0, len(group), _MOST_COLUMNS)
    ]
