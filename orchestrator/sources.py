"""Rows of a task's source, a Hugging Face dataset or files, under the names that a task uses.

Whatever is wrong with a source is said in one `DataError`: which file, which line or row, and how
to mend it. Nothing is guessed: every value of a CSV or TSV file is the text that stands there.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import socket
import urllib.parse
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.tasks import DataSource, TaskSpec, suggestion

Row: TypeAlias = Mapping[str, Any]

SINGLE_FILE_SPLIT = "train"
"""The split that a source of one file is."""
LONGEST_FIELD = 1 << 24
"""Characters in one field of a CSV file; more means that a quote was never closed."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_SLICED = re.compile(r"^(?P<name>[^\[\]]+)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?$")


class DataError(ValueError):
    """A dataset that is missing or wrong; the message says where and how to mend it."""


# --- one split -----------------------------------------------------------------------------------


def read_split(data: DataSource, split: str) -> list[Row] | None:
    """The rows of one split of a source.

    Args:
        data: The source.
        split: The split's name as the task gives it; `name[a:b]` takes only those rows.

    Returns:
        The rows with canonical column names; None when the source has no such split.

    Raises:
        DataError: If the source is missing or a row cannot be read.
    """
    match = _SLICED.match(split)
    if match is None:
        raise DataError(
            f"The split {split!r} is neither a name nor a name with rows such as 'train[:5000]'."
        )
    name = data.split_names.get(match["name"], match["name"])
    first, last = (int(match[part]) if match[part] else None for part in ("start", "stop"))
    if data.files is not None:
        rows, where = _read_files(Path(data.files), name)
        rows = None if rows is None else rows[first:last]
    else:
        rows, where = _read_hub(data, name, first, last), f"{data.hub}: {name}"
    if rows is None:
        return None
    offset = first or 0
    return [
        canonical_row(row, data.columns, data.constants, where=f"{where}: row {number}")
        for number, row in enumerate(rows, start=offset + 1)
    ]


def source_sha256(data: DataSource) -> str | None:
    """A hash of every file of a source of files.

    Args:
        data: The source.

    Returns:
        A hexadecimal sha256; None for a set of the hub, whose rows are known only once they have
        been read, and for a source that is not there.
    """
    if data.files is None:
        return None
    path = Path(data.files)
    files = _data_files(path) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def split_names(data: DataSource) -> list[str]:
    """The names of the splits that a source of files has, in alphabetical order.

    Args:
        data: A source of files.

    Returns:
        The names; `train` for a single file, none where there is nothing.
    """
    path = Path(str(data.files))
    if path.is_file():
        return [SINGLE_FILE_SPLIT]
    if not path.is_dir():
        return []
    return sorted({file.name.removesuffix(_suffix(file)) for file in _data_files(path)})


def place(data: DataSource, split: str) -> str:
    """Where a split's rows stand, for messages: a file, or a dataset with its split.

    Args:
        data: The source.
        split: The split's name as the task gives it.

    Returns:
        The place.
    """
    name = split.split("[", maxsplit=1)[0]
    name = data.split_names.get(name, name)
    if data.files is None:
        return f"{data.hub} ({name})"
    folder = Path(data.files)
    files = _data_files(folder) if folder.is_dir() else []
    return str(next((f for f in files if f.name.removesuffix(_suffix(f)) == name), folder))


def at_data_root(task: TaskSpec, data_root: Path | None) -> TaskSpec:
    """A task that reads a folder below a data root instead of its own source.

    Args:
        task: The task.
        data_root: The folder that holds one folder for each task; None for "nowhere".

    Returns:
        The task, unchanged where the data root has no folder of its name. What belongs to the old
        source (columns, constants, names of splits) is dropped: the folder has canonical names.
    """
    if data_root is None:
        return task
    folder = data_root / (task.data.local_name or task.name)
    if not folder.is_dir():
        return task
    data = DataSource(files=str(folder.resolve()), local_name=task.data.local_name)
    return task.model_copy(update={"data": data})


def canonical_row(
    row: Row,
    columns: Mapping[str, str | Sequence[str]],
    constants: Mapping[str, Any] | None = None,
    *,
    where: str = "a row",
) -> dict[str, Any]:
    """A row with canonical column names added; dots reach into nested columns.

    Args:
        row: The row as the source has it.
        columns: Canonical name to the source's name, or to several whose values become one list.
        constants: Columns with the same value in every row.
        where: Names the row in messages.

    Returns:
        The row's own columns with the canonical ones.

    Raises:
        DataError: If the row lacks a column.
    """
    renamed = {**row, **(constants or {})}
    for canonical, paths in columns.items():
        renamed[canonical] = (
            _nested(row, paths, canonical, where)
            if isinstance(paths, str)
            else [_nested(row, path, canonical, where) for path in paths]
        )
    return renamed


def _nested(row: Row, path: str, canonical: str, where: str) -> Any:
    if path in row:  # a name of a flat file may hold dots of its own
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = [str(k) for k in (value if isinstance(value, Mapping) else row)]
            raise DataError(
                f"{where}: `data.columns` maps {canonical!r} to {path!r}, which is not there."
                f"{suggestion(part, known)} Columns: {_listed(sorted(map(str, row)))}."
            )
        value = value[part]
    return value


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name if len(name) <= 40 else name[:37] + "...") for name in names[:most])
    return (shown or "none") + (f" and {len(names) - most} more" if len(names) > most else "")


# --- files ---------------------------------------------------------------------------------------


def _suffix(path: Path) -> str:
    """The suffix that says the format, `.gz` included; empty for a file of another kind."""
    name = path.name.lower()
    return next((path.name[-len(s) :] for s in _SUFFIXES if name.endswith(s)), "")


def _data_files(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.iterdir())
        if path.is_file() and _suffix(path) and not path.name.startswith(".")
    ]  # fmt: skip


def _read_files(path: Path, split: str) -> tuple[list[Row] | None, str]:
    """The rows of a split, and the file that they stand in."""
    if path.is_file():
        if not _suffix(path):
            raise DataError(
                f"{path}: not a kind of file that is read; its name must end in "
                f"{', '.join(_SUFFIXES)}.{_other_kind(path)}"
            )
        return (_read_file(path) if split == SINGLE_FILE_SPLIT else None), str(path)
    if not path.is_dir():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"No data folder or file {path}.{suggestion(path.name, beside)} `make demo` fetches "
            "the demo data; for your own, change `data.files`, which is relative to the task file."
        )
    found = _data_files(path)
    if not found:
        there = _listed([file.name for file in path.iterdir()])
        raise DataError(
            f"{path}: holds no data. Put train, validation and test there as csv, tsv, jsonl or "
            f"parquet (train.csv alone will do). It has: {there}."
        )
    files = [file for file in found if file.name.removesuffix(_suffix(file)) == split]
    if len(files) > 1:
        raise DataError(
            f"{path}: the split {split!r} is there {len(files)} times "
            f"({', '.join(file.name for file in files)}). Keep one of them."
        )
    return (_read_file(files[0]), str(files[0])) if files else (None, str(path))


def _other_kind(path: Path) -> str:
    cures = {
        ".json": " Write one JSON object a line and call it .jsonl.",
        ".ndjson": " Call it .jsonl.",
        ".xlsx": " Save the sheet as CSV.",
        ".xls": " Save the sheet as CSV.",
        ".txt": " Call it .tsv if its columns are separated by tabs.",
    }
    return cures.get(path.suffix.lower(), "")


def _read_file(path: Path) -> list[Row]:
    suffix = _suffix(path).lower()
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: is empty. Remove it, or put rows into it.")
        if suffix == ".parquet":
            rows = _read_parquet(path)
        else:
            text = _decoded(path, _content(path))
            plain = suffix.removesuffix(".gz")
            rows = _parse_lines(path, text) if plain == ".jsonl" else _parse_table(
                path, text, _DELIMITERS[plain]
            )  # fmt: skip
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
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


def _parse_lines(path: Path, text: str) -> list[Row]:
    rows: list[Row] = []
    # Only \n ends a line: other separators of lines may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"{path}: line {number}: not JSON ({error}); got {_cut(line)}. "
                "Write one JSON object a line."
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: line {number}: a row is a JSON object such as "
                f'{{"text": "...", "label": 1}}, got {_cut(line)}.'
            )
        rows.append(row)
    return rows


def _cut(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")


def _parse_table(path: Path, text: str, delimiter: str) -> list[Row]:
    # The module's limit is there to notice an unclosed quote; long articles pass the default.
    before = csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    rows: list[Row] = []
    try:
        header = next((fields for fields in reader if any(fields)), None)
        if header is None:
            raise DataError(f"{path}: has no header and no rows. Its first line names the columns.")
        _check_header(path, header, delimiter)
        start = reader.line_num + 1
        for fields in reader:
            if len(fields) != len(header) and fields:
                raise DataError(
                    f"{path}: line {start}: has {len(fields)} fields and the header {len(header)}. "
                    'Put a field that holds the separator, a quote or a line break into "quotes".'
                )
            if fields:
                rows.append(dict(zip(header, fields, strict=True)))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: line {start}: not sound {'CSV' if delimiter == ',' else 'TSV'} ({error}). "
            'A field that holds a quote is written "like ""this""".'
        ) from None
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise DataError(f"{path}: has a header and no rows.")
    return rows


def _check_header(path: Path, header: Sequence[str], delimiter: str) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: line 1: the header names {_listed(twice)} more than once. Rename one of them."
        )
    other = next((d for d in (",", ";", "\t", "|") if d != delimiter and d in header[0]), None)
    if len(header) == 1 and other is not None:
        raise DataError(
            f"{path}: line 1: the header is one column, {header[0]!r}. Its separator seems to be "
            f"{other!r}; a .csv is separated by commas and a .tsv by tabs."
        )


def _read_parquet(path: Path) -> list[Row]:
    import datasets
    import pyarrow.parquet
    from datasets.table import InMemoryTable

    try:
        table = datasets.Dataset(InMemoryTable(pyarrow.parquet.read_table(path)))
    except _dataset_errors() as error:
        raise DataError(
            f"{path}: not sound parquet ({_one_line(error)}). Write it again."
        ) from None
    return list(_rows_of(table))


def _rows_of(table: Any) -> Iterator[Row]:
    """The rows of a dataset; a column of class numbers comes with its names as `<column>_text`."""
    import datasets

    names: dict[str, Callable[[Any], str | None]] = {
        f"{column}_text": _named(column, feature)
        for column, feature in table.features.items()
        if isinstance(feature, datasets.ClassLabel) and f"{column}_text" not in table.features
    }
    for row in table:
        yield {**row, **{column: name(row) for column, name in names.items()}}


def _named(column: str, feature: Any) -> Callable[[Any], str | None]:
    def name(row: Row) -> str | None:
        value = row[column]
        return None if value is None or value < 0 else str(feature.int2str(value))

    return name


# --- the hub -------------------------------------------------------------------------------------


def _read_hub(
    data: DataSource, split: str, first: int | None, last: int | None
) -> list[Row] | None:
    """Rows of a dataset on the hub. Only data are read: a dataset's own code is never run."""
    import datasets

    name = str(data.hub)
    wanted = split if first is None and last is None else f"{split}[{first or ''}:{last or ''}]"
    try:
        with _cache_only_without_hub(name):
            known = datasets.get_dataset_split_names(name, data.config, revision=data.revision)
            if split not in known:
                return None
            table: Any = datasets.load_dataset(
                name, data.config, split=wanted, revision=data.revision
            )
    except _dataset_errors() as error:
        raise DataError(_hub_message(data, error)) from None
    return list(_rows_of(table))


def _hub_message(data: DataSource, error: BaseException) -> str:
    text = _one_line(error)
    cure = (
        "On a machine without the hub, give `--data-root DIR` with "
        "DIR/<name>/<split>.jsonl.gz, or copy the data and name them in `data.files`."
    )
    if "scripts are no longer supported" in text:
        cure = (
            "Only data are loaded, never a dataset's own code: try `revision: "
            "refs/convert/parquet`, where the hub keeps most such sets as parquet."
        )
    elif "BuilderConfig" in text or "Config name is missing" in text:
        cure = "Put one of those into `data.config`."
    elif "gated" in text or "authenticated" in text:
        cure += " For a gated set, log in with `hf auth login` and accept its terms."
    return f"The dataset {data.hub!r} cannot be loaded ({text}). {cure}"


def _dataset_errors() -> tuple[type[Exception], ...]:
    """What `datasets` and pyarrow raise for data that are missing or wrong."""
    import datasets.exceptions

    return (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."


@contextmanager
def _cache_only_without_hub(name: str) -> Iterator[None]:
    """Ask only the cache while the hub's address is unknown: the hub's client tries for minutes."""
    from datasets import config
    from huggingface_hub import constants

    if Path(name).exists() or _hub_is_known(constants.ENDPOINT):
        yield
        return
    places: tuple[Any, ...] = (config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _hub_is_known(endpoint: str) -> bool:
    if urllib.request.getproxies() or os.environ.get("HF_HUB_OFFLINE"):
        return True  # a proxy knows names that this machine does not
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(endpoint).hostname, None)
    except OSError:
        return False
    return True
