"""Rows of a task's source, a Hugging Face dataset or files, under the names that a task uses.

Whatever is wrong with a source is said in one `DataError`: which file, which line or row, and how
to fix it. Files lie as people have them: a file a split, shards, a folder a split, or all of that
below `data/`, as the hub serves a dataset.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.data.formats.placed_row import DataError, Row
from orchestrator.data.sources.columns import add_columns
from orchestrator.data.sources.hub import read_hub
from orchestrator.data.sources.local_files import read_files
from orchestrator.data.sources.split_files import SINGLE_FILE_SPLIT, files_of_split, split_files
from orchestrator.spec.task_kinds import DataSource

_SLICED = re.compile(r"^(?P<name>[^\[\]]+)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?$")


@contextmanager
def naming_file(file: Path | str | None) -> Iterator[None]:
    """Within it, what is wrong with a task's data names the task's file.

    Args:
        file: The task file; None when it is not known.

    Raises:
        DataError: What was raised within it, with the file's name before it.
    """
    try:
        yield
    except DataError as error:
        if file is None or str(file) in str(error):
            raise
        raise DataError(f"{file}: {error}") from None


def read_split(data: DataSource, split: str) -> list[Row] | None:
    """The rows of one split of a source.

    Args:
        data: The source.
        split: The split's name as the task gives it; `name[a:b]` takes only those rows.

    Returns:
        The rows with canonical column names; None when the source has no such split. What a row
        lacks of a column that others have is None.

    Raises:
        DataError: If the source is missing, a row cannot be read, or no row has a column that
            `data.columns` names.
    """
    match = _SLICED.match(split)
    if match is None:
        raise DataError(
            f"The split {split!r} is neither a name nor a name with rows such as 'train[:5000]'."
        )
    name = data.split_names.get(match["name"], match["name"])
    first, last = (int(match[part]) if match[part] else None for part in ("start", "stop"))
    rows = (
        read_files(Path(data.files), name)
        if data.files is not None
        else read_hub(data, name, first, last)
    )
    if rows is None:
        return None
    chosen = rows[first:last] if data.files is not None else rows
    if not chosen:
        has = f"; it has {len(rows)}" if data.files is not None else ""
        raise DataError(f"{place(data, split)}: the split {split!r} takes no row{has}.")
    for row in chosen:
        row.update(data.constants)
    add_columns(chosen, data.columns)
    return list(chosen)


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
    if path.is_file():
        files = {path.name: path}
    else:
        found = [file for files in split_files(path).values() for file in files]
        files = {file.relative_to(path).as_posix(): file for file in found}
    if not files:
        return None
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
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
    return [SINGLE_FILE_SPLIT] if path.is_file() else sorted(split_files(path))


def place(data: DataSource, split: str) -> str:
    """Where a split's rows stand, for messages: a file, a folder, or a dataset with its split.

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
    files = files_of_split(split_files(Path(data.files)), name) or []
    return str(files[0] if len(files) == 1 else files[0].parent if files else data.files)
