"""Rows of a JSON-lines file."""

from __future__ import annotations

from pathlib import Path

from orchestrator.data.formats.placed_row import DataError, PlacedRow
from orchestrator.system.strict_json import JsonError, parse
from orchestrator.system.wording import cut


def parse_lines(path: Path, text: str) -> list[PlacedRow]:
    """The rows of JSON lines, one object a line."""
    rows: list[PlacedRow] = []
    file = str(path)
    # Only \n ends a line: other separators of lines may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except JsonError as error:
            cure = " Write one JSON object a line." * str(error).startswith("not JSON")
            raise DataError(f"{path}: line {number}: {error}; got {cut(line)!r}.{cure}") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: line {number}: a row is a JSON object such as "
                f'{{"text": "...", "label": 1}}, got {cut(line)!r}.'
            )
        rows.append(PlacedRow(row, file, number, "line"))
    return rows
