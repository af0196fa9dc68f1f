"""Files of answered rows: there whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.data.formats.placed_row import Row
from orchestrator.serving.find import ModelUseError
from orchestrator.system.wording import suggestion

_WRITTEN = (".csv", ".jsonl")


def check_files(source: Path, output: Path, *, force: bool) -> None:
    """Refuse files that cannot be read or written, before a model is loaded.

    Args:
        source: The file with the rows.
        output: The file to write.
        force: Whether an existing output may be replaced.

    Raises:
        ModelUseError: If one of them will not do.
    """
    if not source.is_file():
        present = [p.name for p in source.parent.iterdir()] if source.parent.is_dir() else []
        raise ModelUseError(f"`--input` {source}: no such file.{suggestion(source.name, present)}")
    if output.suffix.lower() not in _WRITTEN:
        raise ModelUseError(
            f"`--output` should end in {' or '.join(_WRITTEN)}, got {output.name!r}."
        )
    if output.exists() and output.resolve() == source.resolve():
        raise ModelUseError(f"`--output` {output} is the input itself. Name another file.")
    if output.is_dir():
        raise ModelUseError(f"`--output` {output} is a folder. Name a file.")
    if output.exists() and not force:
        raise ModelUseError(f"`--output` {output} is there already. Add --force to replace it.")
    if not output.absolute().parent.is_dir():
        raise ModelUseError(f"`--output` {output}: there is no folder {output.parent}. Make it.")


def write_rows(
    output: Path,
    rows: Sequence[Row],
    added: Iterator[Mapping[str, Any]],
    new_columns: Sequence[str],
) -> None:
    """Write rows with what is added to them; the file is there whole or not at all.

    Args:
        output: A file ending in .csv or .jsonl.
        rows: The rows as they were read.
        added: The columns added to each, in the same order.
        new_columns: The names of the added columns, for the header of a CSV file.
    """
    names = list(dict.fromkeys([*(name for row in rows for name in row), *new_columns]))
    # As open as any new file, which one of `tempfile` is not.
    half = output.absolute().with_name(f".{output.name}-{uuid.uuid4().hex}")
    try:
        with half.open("x", encoding="utf-8", newline="") as file:
            whole = ({**row, **more} for row, more in zip(rows, added, strict=True))
            if output.suffix.lower() == ".csv":
                _write_csv(file, whole, names)
            else:
                _write_lines(file, whole)
            file.flush()
            os.fsync(file.fileno())
        half.replace(output)
    finally:
        half.unlink(missing_ok=True)


def _write_lines(file: IO[str], rows: Iterator[Mapping[str, Any]]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_csv(file: IO[str], rows: Iterator[Mapping[str, Any]], names: Sequence[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value
