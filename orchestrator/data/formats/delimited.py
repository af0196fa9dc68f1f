"""Rows of a CSV or TSV file, read in the one way in which every line is whole."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.data.formats.placed_row import DataError, PlacedRow
from orchestrator.system.wording import cut, listed

LONGEST_FIELD = 1 << 24
"""Characters in one field of a CSV file; more means that a quote was never closed."""


@dataclass
class _Table:
    """A table as it is read in one of the ways to read it."""

    header: list[str] = field(default_factory=list)
    header_line: int = 1
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """For each row, the line in which it begins."""
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    """Rows of several lines: index, first line, last line."""
    fault: tuple[int, str] | None = None
    """What keeps the text from being read in this way: a line, and what is wrong."""


def parse_table(path: Path, text: str, delimiter: str) -> list[PlacedRow]:
    """The rows of a table; refused where it can be read in two ways."""
    table = _read_table(text, delimiter, quoted=True)
    if delimiter == "\t" and (table.fault is not None or table.spans):
        # Most programs write TSV without any quoting (only tabs and line ends are special), so a
        # quote may be part of a text. That reading holds if it makes every line a whole row.
        plain = _read_table(text, delimiter, quoted=False)
        if plain.fault is None and len(plain.header) > 1 and not _is_quoted(plain.header):
            table = plain
    if table.header:
        _check_header(f"{path}: line {table.header_line}", table.header, delimiter)
    if table.fault is not None:
        line, problem = table.fault
        raise DataError(f"{path}: line {line}: {problem}")
    if not table.header:
        raise DataError(f"{path}: has no header and no rows. Its first line names the columns.")
    if not table.rows:
        raise DataError(f"{path}: has a header and no rows.")
    file, header = str(path), table.header
    rows = [
        PlacedRow(zip(header, fields, strict=True), file, line, "line")
        for fields, line in zip(table.rows, table.lines, strict=True)
    ]
    doubtful = _check_spans(path, table, text, delimiter) if table.spans else set()
    for index, _, end in table.spans:
        rows[index].until = end if index in doubtful else None
    return rows


def _is_quoted(header: Sequence[str]) -> bool:
    return any(name.startswith('"') and name.endswith('"') for name in header)


def _read_table(text: str, delimiter: str, *, quoted: bool) -> _Table:
    """The table of a text, as far as it can be read.

    Args:
        text: The text.
        delimiter: What separates fields.
        quoted: Whether a field may stand in quotes; otherwise a quote is a letter like others.

    Returns:
        The table; with a fault, what was read before it.
    """
    # The module's limit is there to notice an unclosed quote; long articles pass the default.
    before = csv.field_size_limit(LONGEST_FIELD)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, quoting=quoting
    )
    table, start = _Table(), 1
    try:
        for fields in reader:
            if not table.header:
                table.header, table.header_line = (fields if any(fields) else []), start
            elif len(fields) != len(table.header) and fields:
                table.fault = (start, _ragged(fields, table.header, start, reader.line_num))
                break
            elif fields:
                if reader.line_num > start:
                    table.spans.append((len(table.rows), start, reader.line_num))
                table.rows.append(fields)
                table.lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        kind = "CSV" if delimiter == "," else "TSV"
        last = reader.line_num
        reason = str(error).replace("'\t'", "a tab")
        until = f"; a quote that opens in line {start} is read on to line {last}" * (last > start)
        table.fault = (
            start,
            f"not valid {kind} ({reason}{until}). A field that holds a quote is written "
            '"like ""this""".',
        )
    finally:
        csv.field_size_limit(before)
    return table


def _ragged(fields: Sequence[str], header: Sequence[str], start: int, last: int) -> str:
    through = f" (a field in quotes goes on to line {last})" if last > start else ""
    return (
        f"has {len(fields)} fields and the header {len(header)}{through}. "
        'Put a field that holds the separator, a quote or a line break into "quotes".'
    )


def _check_header(where: str, header: Sequence[str], delimiter: str) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(
            f"{where}: the header names {listed(twice)} more than once. Rename one of them."
        )
    other = next((d for d in (",", ";", "\t", "|") if d != delimiter and d in header[0]), None)
    if len(header) == 1 and other is not None:
        raise DataError(
            f"{where}: the header is one column, {cut(header[0])!r}. Its separator seems to be "
            f"{other!r}; a .csv is separated by commas and a .tsv by tabs."
        )


def _check_spans(path: Path, table: _Table, text: str, delimiter: str) -> set[int]:
    """Look for quotes that swallowed rows: fields whose lines are rows like the others.

    A field may have several lines. They are taken for rows of their own when each has as many
    fields as the header and a value that other rows have in the same column; where there is no such
    value, nothing is proved.

    Args:
        path: The file, for the message.
        table: A table with rows of several lines.
        text: What was read.
        delimiter: What separates fields.

    Returns:
        The indices of the rows of which nothing is proved.

    Raises:
        DataError: If rows were swallowed.
    """
    lines = list(io.StringIO(text, newline=""))
    doubtful: set[int] = set()
    known: list[Counter[str]] | None = None
    for index, start, end in table.spans:
        pieces = [line.rstrip("\r\n").split(delimiter) for line in lines[start:end]]
        if len(table.header) == 1 or any(len(p) != len(table.header) for p in pieces):
            continue
        known = known or _values(table)
        alike = [
            next((c for c, value in enumerate(p) if value and known[c][value] > 1), None)
            for p in pieces
        ]
        column = alike[0]
        if column is None or None in alike:
            doubtful.add(index)
            continue
        raise DataError(
            f"{path}: line {start}: a quote that opens here closes in line {end}, so "
            f"{end - start + 1} lines became one row; line {start + 1} looks like a row of its own "
            f"(its {table.header[column]!r} is {cut(pieces[0][column])!r}, as in other rows). "
            "Close the quote in its own line, or double it where it is part of the text; if the "
            "lines do belong together, write the file as .jsonl."
        )
    return doubtful


def _values(table: _Table) -> list[Counter[str]]:
    """How often each value stands in each column, in rows of one line."""
    long = {index for index, _, _ in table.spans}
    rows = [fields for index, fields in enumerate(table.rows) if index not in long]
    return [Counter(fields[column] for fields in rows) for column in range(len(table.header))]
