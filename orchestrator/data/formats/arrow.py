"""Rows of a parquet file, or of a table of `datasets`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.data.formats.placed_row import DataError, PlacedRow, Row
from orchestrator.system.wording import one_line


def read_parquet(path: Path) -> list[PlacedRow]:
    """The rows of a parquet file."""
    import datasets
    import pyarrow.parquet
    from datasets.table import InMemoryTable

    try:
        table = datasets.Dataset(InMemoryTable(pyarrow.parquet.read_table(path)))
        return list(rows_of(table, str(path)))
    except table_errors() as error:
        raise DataError(f"{path}: not valid parquet ({one_line(error)}). Write it again.") from None


def rows_of(table: Any, file: str, *, first: int = 1) -> Iterator[PlacedRow]:
    """The rows of a table of `datasets`.

    Args:
        table: The table. A column of class numbers comes with its names as `<column>_text`.
        file: Where it stands, for messages.
        first: The number of its first row.

    Yields:
        The rows; what is not a number is None.
    """
    import datasets

    names: dict[str, Callable[[Any], str | None]] = {
        f"{column}_text": _named(column, feature)
        for column, feature in table.features.items()
        if isinstance(feature, datasets.ClassLabel) and f"{column}_text" not in table.features
    }
    floating = [
        column for column, feature in table.features.items()
        if any(kind in str(feature) for kind in ("float", "double"))
    ]  # fmt: skip
    for number, row in enumerate(table, start=first):
        placed = PlacedRow(row, file, number, "row")
        for column, name in names.items():
            placed[column] = name(row)
        for column in floating:
            placed[column] = _without_nan(row[column])
        yield placed


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    return value


def _named(column: str, feature: Any) -> Callable[[Any], str | None]:
    def name(row: Row) -> str | None:
        value = row[column]
        return None if value is None or value < 0 else str(feature.int2str(value))

    return name


def table_errors() -> tuple[type[Exception], ...]:
    """What `datasets` and pyarrow raise for data that are missing or wrong."""
    import datasets.exceptions
    import yaml

    return (
        datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, LookupError,
        TypeError, ArithmeticError, MemoryError, yaml.YAMLError,
    )  # fmt: skip
