"""One file of rows: CSV, TSV, JSON lines or parquet, as the values that stand there.

Nothing is guessed: every value of a CSV or TSV file is the text that stands there, what is missing
is None in every format, and a file that can be read in two ways is refused or read in the one way
in which every line is whole. Whatever is wrong is said in one `DataError` that names file and line.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.strict_json import JsonError, cut, parse

Row: TypeAlias = Mapping[str, Any]

LONGEST_FIELD = 1 << 24
"""Characters in one field of a CSV file; more means that a quote was never closed."""
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class DataError(ValueError):
    """A dataset that is missing or wrong; the message says where and how to mend it."""


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


# --- files ---------------------------------------------------------------------------------------


def suffix_of(path: Path) -> str:
    """The suffix that says the format, `.gz` included; empty for a file of another kind."""
    name = path.name.lower()
    return next((path.name[-len(s) :] for s in SUFFIXES if name.endswith(s)), "")


def read_rows(path: Path) -> list[PlacedRow]:
    """The rows of a file.

    Args:
        path: A file whose name ends in one of `SUFFIXES`.

    Returns:
        Its rows, at least one.

    Raises:
        DataError: If it cannot be read, is not sound, or has no rows.
    """
    suffix = suffix_of(path).lower()
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty. Remove it, or put rows into it.")
        if suffix == ".parquet":
            rows = _read_parquet(path)
        else:
            text = _decoded(path, _content(path))
            plain = suffix.removesuffix(".gz")
            rows = (
                _parse_lines(path, text)
                if plain == ".jsonl"
                else _parse_table(path, text, _DELIMITERS[plain])
            )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except MemoryError:
        raise DataError(
            f"{path}: does not fit into memory. Split it, or take fewer rows of it."
        ) from None
    if not rows:
        raise DataError(f"{path}: has no rows. Remove it, or put rows into it.")
    return rows


def _content(path: Path) -> bytes:
    if not path.name.lower().endswith(".gz"):
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except EOFError:
        raise DataError(f"{path}: ends in the middle; fetch or compress it again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not sound gzip ({error}). Compress it again, or drop the .gz if it is plain."
        ) from None


_SIGNATURES = {
    b"PK\x03\x04": "a zip archive or a spreadsheet; save the sheet as CSV",
    b"\x1f\x8b": "gzip; let its name end in .gz",
    b"PAR1": "parquet; let its name end in .parquet",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the data with `git lfs pull`",
}


def _decoded(path: Path, content: bytes) -> str:
    for signature, kind in _SIGNATURES.items():
        if content.startswith(signature):
            raise DataError(f"{path}: looks like {kind}.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: {_not_utf8(path, 0, 'UTF-16')}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A byte-order mark is not counted by the decoder.
        offset = error.start + 3 * content.startswith(b"\xef\xbb\xbf")
        guess = "UTF-16" if _is_utf16(content) else "latin-1"
        line = content.count(b"\n", 0, offset) + 1
        raise DataError(f"{path}: line {line}: {_not_utf8(path, offset, guess)}") from None
    if "\0" in text:
        offset = content.index(0)
        kind = "UTF-16 without a mark" if _is_utf16(content) else "a binary file"
        raise DataError(
            f"{path}: holds a NUL at byte {offset}, so it is {kind} rather than text. "
            "Save it as UTF-8 text."
        )
    return text


def _is_utf16(content: bytes) -> bool:
    """Whether every other byte of the beginning is mostly zero, as in text of Latin letters."""
    beginning = content[:200]
    return any(4 * beginning[start::2].count(0) > len(beginning) for start in (0, 1))


def _not_utf8(path: Path, offset: int, guess: str) -> str:
    name = path.name
    return (
        f"not UTF-8 (byte {offset}); it is probably {guess}. Convert it, for example with "
        f"`iconv -f {guess} -t UTF-8 {name} > new.{name}`."
    )


# --- JSON lines ----------------------------------------------------------------------------------


def _parse_lines(path: Path, text: str) -> list[PlacedRow]:
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


# --- CSV and TSV ---------------------------------------------------------------------------------


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


def _parse_table(path: Path, text: str, delimiter: str) -> list[PlacedRow]:
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
            f"not sound {kind} ({reason}{until}). A field that holds a quote is written "
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


# --- parquet -------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> list[PlacedRow]:
    import datasets
    import pyarrow.parquet
    from datasets.table import InMemoryTable

    try:
        table = datasets.Dataset(InMemoryTable(pyarrow.parquet.read_table(path)))
        return list(rows_of(table, str(path)))
    except table_errors() as error:
        raise DataError(f"{path}: not sound parquet ({one_line(error)}). Write it again.") from None


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


# --- for messages --------------------------------------------------------------------------------


def one_line(error: BaseException) -> str:
    """An error of another library in one line of at most 300 characters, all of them printable."""
    text = " ".join(str(error).split()) or type(error).__name__
    return cut("".join(c if c.isprintable() else "?" for c in text), 300)


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in quotes, the first of them where there are many.

    Args:
        names: The names.
        most: How many are shown.

    Returns:
        Such as `'a', 'b' and 3 more`; `none` where there are none.
    """
    every = list(names)
    shown = ", ".join(repr(cut(name, 40)) for name in every[:most])
    return (shown or "none") + (f" and {len(every) - most} more" if len(every) > most else "")
