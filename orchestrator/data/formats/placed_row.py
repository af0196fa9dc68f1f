"""A row of a data set that knows its file and line, and the error that names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from orchestrator.system.user_error import UserError

Row: TypeAlias = Mapping[str, Any]


class DataError(UserError, ValueError):
    """A dataset that is missing or wrong; the message says where and how to fix it."""


class PlacedRow(dict[str, Any]):
    """A row that knows where it stands."""

    __slots__ = ("file", "number", "unit", "until")

    def __init__(self, values: Any, file: str, number: int, unit: str) -> None:
        """Keep a row with its place.

        Args:
            values: What `dict` takes.
            file: The file, or the dataset with its split.
            number: The line or row in it, counted from 1.
            unit: "line" or "row".
        """
        super().__init__(values)
        self.file = file
        self.number = number
        self.unit = unit
        self.until: int | None = None
        """The last line of a row of a table whose every line could be a row of its own."""

    def with_values(self, values: Mapping[str, Any]) -> PlacedRow:
        """The row at the same place with values changed or added."""
        row = PlacedRow({**self, **values}, self.file, self.number, self.unit)
        row.until = self.until
        return row


def where_is(row: Row) -> str:
    """Where a row stands, for messages: `reviews.csv: line 17`; "a row" where nobody knows."""
    return (
        f"{row.file}: {row.unit} {row.number}"
        if isinstance(row, PlacedRow) and row.file
        else "a row"
    )
