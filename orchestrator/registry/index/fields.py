"""The fields that an index holds: their numbers, and the tables of values that they stand in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.readings import CONTROLS
from orchestrator.registry.index.schema import BLOCK_FIELDS
from orchestrator.registry.query.fields import WORDS, Field, Group
from orchestrator.registry.query.values import Held, held

INTERVALS = (
    *("gain_low", "gain_high"),
    *(f"minus_{control}_{end}" for control in CONTROLS for end in ("low", "high")),
)
"""The names of the ends of 95 % intervals: of the gain, and of the mean final score minus each
control's."""


class FieldTable:
    """Gives every name its column, made when it is new."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Know the columns that there are.

        Args:
            database: The index; a transaction is open whenever a column is made.
        """
        self._database = database
        self._ids: dict[str, int] = dict(database.execute("SELECT name, id FROM field").fetchall())
        rows = database.execute("SELECT DISTINCT block FROM field").fetchall()
        self.blocks: set[int] = {block for (block,) in rows}

    def number(self, name: str, kind: str) -> int:
        """A field's number; its table and column are made where it has none."""
        if name not in self._ids:
            number = max(self._ids.values(), default=-1) + 1
            block = block_of(number)
            if block not in self.blocks:
                self._database.execute(f"CREATE TABLE values_{block} (trial INTEGER PRIMARY KEY)")
                self.blocks.add(block)
            self._database.execute(f"ALTER TABLE values_{block} ADD COLUMN v{number}")
            self._database.execute(
                "INSERT INTO field (id, name, kind, block) VALUES (?, ?, ?, ?)",
                (number, name, kind, block),
            )
            self._ids[name] = number
        return self._ids[name]

    def put(self, trial: int, values: Mapping[str, tuple[str, Any]]) -> list[int]:
        """Write a trial's values, in place of those that it had.

        Args:
            trial: Its number in the index.
            values: By name, the group and the value.

        Returns:
            The numbers of its fields, in their order.
        """
        numbers: list[int] = []
        by_block: dict[int, dict[int, Held]] = {block: {} for block in self.blocks}
        for name, (kind, value) in values.items():
            number = self.number(name, kind)
            numbers.append(number)
            kept = held(value)
            if kept is not None:
                by_block.setdefault(block_of(number), {})[number] = kept
        for block, cells in by_block.items():
            columns = "".join(f", v{number}" for number in cells)
            marks = ", ?" * len(cells)
            self._database.execute(
                f"REPLACE INTO values_{block} (trial{columns}) VALUES (?{marks})",
                (trial, *cells.values()),
            )
        return numbers

    def forget(self, sweep: int) -> None:
        """Remove the values of a sweep's trials."""
        for block in self.blocks:
            self._database.execute(
                f"DELETE FROM values_{block} WHERE trial IN (SELECT id FROM trial WHERE sweep = ?)",
                (sweep,),
            )


def block_of(number: int) -> int:
    """Which table of values a field stands in."""
    return number // BLOCK_FIELDS


def known_fields(database: sqlite3.Connection, sweeps: Sequence[int] | None) -> dict[str, Field]:
    """What can be named.

    Args:
        database: The index.
        sweeps: Among the trials of these sweeps; None: of all.

    Returns:
        Words, measures, intervals, settings as the trials name them first, and scores by task.
    """
    among = "" if sweeps is None else f"WHERE sweep IN ({', '.join('?' * len(sweeps))})"
    rows = database.execute(
        "SELECT field.name, field.kind, field.id, field.block FROM field JOIN sweep_field "
        f"ON sweep_field.field = field.id {among} "
        "GROUP BY field.id ORDER BY min(sweep_field.number * 100000 + sweep_field.place)",
        list(sweeps or ()),
    ).fetchall()
    found = {
        name: Field(name, f"values_{block}.v{number}", "value", cast("Group", kind), block)
        for name, kind, number, block in rows
    }
    # A measure can be asked for before any trial has it.
    never = {name: Field(name, "NULL", "value", "measure") for name in NATURAL_DIRECTIONS}
    never |= {name: Field(name, "NULL", "value", "interval") for name in INTERVALS}
    return {
        **{name: found.get(name, nothing) for name, nothing in _of(never, "measure")},
        **_rest(found, "measure"),
        **{name: found.get(name, nothing) for name, nothing in _of(never, "interval")},
        **_rest(found, "setting"),
        **_rest(found, "score"),
        **WORDS,
    }


def _of(fields: Mapping[str, Field], group: str) -> Iterable[tuple[str, Field]]:
    return [(name, field) for name, field in fields.items() if field.group == group]


def _rest(fields: Mapping[str, Field], group: str) -> dict[str, Any]:
    return dict(_of(fields, group))
