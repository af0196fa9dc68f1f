"""One file of rows: CSV, TSV, JSON lines or parquet, as the values that stand there.

Nothing is guessed: every value of a CSV or TSV file is the text that stands there, what is missing
is None in every format, and a file that can be read in two ways is refused or read in the one way
in which every line is whole. Whatever is wrong is said in one `DataError` that names file and line.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from orchestrator.data.formats.arrow import read_parquet
from orchestrator.data.formats.decoding import decoded
from orchestrator.data.formats.delimited import parse_table
from orchestrator.data.formats.json_lines import parse_lines
from orchestrator.data.formats.placed_row import DataError, PlacedRow

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


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
            rows = read_parquet(path)
        else:
            text = decoded(path, _content(path))
            plain = suffix.removesuffix(".gz")
            rows = (
                parse_lines(path, text)
                if plain == ".jsonl"
                else parse_table(path, text, _DELIMITERS[plain])
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
            f"{path}: not valid gzip ({error}). Compress it again, or drop the .gz if it is plain."
        ) from None
