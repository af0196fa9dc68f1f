"""Rows of a task's source, a Hugging Face dataset or files, under the names that a task uses."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from orchestrator.tasks import DataSource, suggestion

Row: TypeAlias = Mapping[str, Any]


class DataError(ValueError):
    """A dataset that is missing or wrong; the message says where and how to mend it."""


def read_split(data: DataSource, split: str) -> list[Row] | None:
    """The rows of one split of a source.

    Args:
        data: The source.
        split: The split's name in the source.

    Returns:
        The rows with canonical column names; None when the source has no such split.

    Raises:
        DataError: If the source is missing or a row cannot be read.
    """
    if data.files is not None:
        return _read_file(Path(data.files), split)
    return _read_hub(data, split)


def _read_file(folder: Path, split: str) -> list[Row] | None:
    if not folder.is_dir():
        raise DataError(
            f"No data folder {folder}. `make demo` fetches the demo data; for your own, put "
            "train.jsonl, validation.jsonl and test.jsonl there or change `data.files`."
        )
    for suffix, opener in ((".jsonl", open), (".jsonl.gz", gzip.open)):
        path = folder / f"{split}{suffix}"
        if path.is_file():
            with opener(path, "rt", encoding="utf-8") as lines:  # type: ignore[operator]
                return list(_parse_lines(path, lines))
    return None


def _parse_lines(path: Path, lines: Any) -> Iterator[Row]:
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}: line {number}: a row is a JSON object, got {line[:60]!r}."
                )
            yield row
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number}: not JSON ({error}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}). Convert the file to UTF-8.") from None
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None


def _read_hub(data: DataSource, split: str) -> list[Row] | None:
    import datasets

    name = str(data.hub)
    try:
        available = datasets.get_dataset_split_names(name, data.config, revision=data.revision)
        if split not in available:
            return None
        rows: Any = datasets.load_dataset(name, data.config, split=split, revision=data.revision)
    except (OSError, ValueError, ConnectionError) as error:
        raise DataError(
            f"The dataset {name!r} cannot be loaded ({' '.join(str(error).split())[:200]}). "
            "On a machine without the hub, give `--data-root DIR` with "
            "DIR/<name>/<split>.jsonl.gz."
        ) from None
    return [canonical_row(row, data.columns) for row in rows]


def canonical_row(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """A row with canonical column names added; dots reach into nested columns."""
    renamed = dict(row)
    for canonical, path in columns.items():
        value: Any = row
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise DataError(
                    f"`data.columns` maps {canonical!r} to {path!r}, which a row does not have."
                    f"{suggestion(part, [str(k) for k in row])} Its columns: {sorted(row)}."
                )
            value = value[part]
        renamed[canonical] = value
    return renamed
