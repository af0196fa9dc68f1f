"""Rows of a split that lies in files, and what is wrong where none can be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.data.formats.placed_row import DataError, PlacedRow
from orchestrator.data.formats.row_files import SUFFIXES, read_rows, suffix_of
from orchestrator.data.sources.split_files import (
    SHARD,
    SINGLE_FILE_SPLIT,
    files_of_split,
    split_files,
)
from orchestrator.system.wording import listed, suggestion


def read_files(path: Path, split: str) -> list[PlacedRow] | None:
    """The rows of a split in files; None where there is no such split."""
    if path.is_file():
        if not suffix_of(path):
            raise DataError(
                f"{path}: not a kind of file that is read; its name must end in "
                f"{', '.join(SUFFIXES)}.{_other_kind(path)}"
            )
        return read_rows(path) if split == SINGLE_FILE_SPLIT else None
    if not path.is_dir():
        raise DataError(_not_there(path))
    try:
        splits = split_files(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
    if not splits:
        raise DataError(_no_data(path))
    files = files_of_split(splits, split)
    if files is None:
        return None
    _check_parts(path, split, files)
    return [row for file in files for row in read_rows(file)]


def _not_there(path: Path) -> str:
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    pattern = (
        f" A pattern is not needed: name the folder {path.parent}, and shards are put together."
        if any(mark in path.name for mark in "*?[")
        else ""
    )
    return (
        f"No data folder or file {path}.{pattern or suggestion(path.name, beside)} `make demo` "
        "fetches the demo data; for your own, change `data.files`, which is relative to the task "
        "file."
    )


_LOOKED_AT = 500
"""Folders in which data are looked for, for a message."""


def _no_data(path: Path) -> str:
    for number, (where, _, names) in enumerate(os.walk(path)):
        if number >= _LOOKED_AT:
            break
        if any(suffix_of(Path(name)) for name in names if not name.startswith((".", "_"))):
            inner = Path(where)
            # The folder of one split is read through the folder that holds it.
            named = inner if inner.parent == path else inner.parent
            return (
                f"{path}: holds no data itself, but {inner.relative_to(path)} does. Write `files: "
                f"{named}`."
            )
    there = listed([file.name for file in path.iterdir()])
    return (
        f"{path}: holds no data. Put train, validation and test there as csv, tsv, jsonl or "
        f"parquet (train.csv alone will do). It has: {there}."
    )


def _check_parts(path: Path, split: str, files: Sequence[Path]) -> None:
    """Refuse a split that is there twice, or lacks one of its shards."""
    names = [str(file.relative_to(path)) for file in files]
    matches = [SHARD.match(file.name.removesuffix(suffix_of(file))) for file in files]
    wanted = {int(match["of"]) for match in matches if match and match["of"]}
    alike = {(file.parent, suffix_of(file).lower()) for file in files}
    in_folder = all(file.parent.name == split and file.parent != path for file in files)
    numbers = [int(match["number"]) for match in matches if match]
    whole = len(numbers) == len(files) == len(set(numbers)) or in_folder
    if len(alike) > 1 or len(wanted) > 1 or (len(files) > 1 and not whole):
        raise DataError(
            f"{path}: the split {split!r} is there {len(files)} times ({', '.join(names[:6])}"
            f"{', ...' if len(names) > 6 else ''}). Keep one of them."
        )
    if wanted and wanted != {len(files)}:
        (total,) = wanted
        lacking = sorted(set(range(total)) - set(numbers))
        raise DataError(
            f"{path}: the split {split!r} has {len(files)} of its {total} shards; number "
            f"{lacking[0] if lacking else total} is missing. Fetch the rest, or name the one file "
            "in `data.files` if it is all that you want."
        )


def _other_kind(path: Path) -> str:
    cures = {
        ".json": " Write one JSON object a line and call it .jsonl.",
        ".ndjson": " Call it .jsonl.",
        ".xlsx": " Save the sheet as CSV.",
        ".xls": " Save the sheet as CSV.",
        ".txt": " Call it .tsv if its columns are separated by tabs.",
    }
    return cures.get(path.suffix.lower(), "")
