"""Rows of a task's source, a Hugging Face dataset or files, under the names that a task uses.

Whatever is wrong with a source is said in one `DataError`: which file, which line or row, and how
to mend it. Files lie as people have them: a file a split, shards, a folder a split, or all of that
below `data/`, as the hub serves a dataset.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.foreign_settings import hub_hindered
from orchestrator.row_files import (
    SUFFIXES,
    DataError,
    PlacedRow,
    Row,
    listed,
    one_line,
    read_rows,
    rows_of,
    suffix_of,
    table_errors,
    where_is,
)
from orchestrator.tasks import DataSource, TaskSpec, suggestion

SINGLE_FILE_SPLIT = "train"
"""The split that a source of one file is."""
HUB_FOLDER = "data"
"""Where a dataset of the hub keeps its files."""

_SLICED = re.compile(r"^(?P<name>[^\[\]]+)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?$")
_SHARD = re.compile(
    r"^(?P<split>.+?)[-_.](?P<number>\d{1,9})(?:-of-(?P<of>\d{1,9}))?(?:-[0-9a-f]{8,})?$"
)


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


# --- one split -----------------------------------------------------------------------------------


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
        _read_files(Path(data.files), name)
        if data.files is not None
        else _read_hub(data, name, first, last)
    )
    if rows is None:
        return None
    chosen = rows[first:last] if data.files is not None else rows
    if not chosen:
        has = f"; it has {len(rows)}" if data.files is not None else ""
        raise DataError(f"{place(data, split)}: the split {split!r} takes no row{has}.")
    for row in chosen:
        row.update(data.constants)
    _add_columns(chosen, data.columns)
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
    files = _named(split_files(Path(data.files)), name) or []
    return str(files[0] if len(files) == 1 else files[0].parent if files else data.files)


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


# --- columns -------------------------------------------------------------------------------------


class _AbsentError(LookupError):
    """A path that leads nowhere in a row; the message says where it ends."""


def canonical_row(
    row: Row,
    columns: Mapping[str, str | Sequence[str]],
    constants: Mapping[str, Any] | None = None,
) -> Row:
    """A row with canonical column names added.

    Args:
        row: The row as the source has it.
        columns: Canonical name to the source's path, or to several whose values become one list;
            see `at_path`.
        constants: Columns with the same value in every row.

    Returns:
        The row's own columns with the canonical ones.

    Raises:
        DataError: If the row lacks a column.
    """
    whole = {**row, **(constants or {})}
    found = row.with_values(whole) if isinstance(row, PlacedRow) else PlacedRow(whole, "", 0, "")
    _add_columns([found], columns)
    return found


def _add_columns(rows: Sequence[PlacedRow], columns: Mapping[str, str | Sequence[str]]) -> None:
    """Add canonical columns; what one row lacks is None in it, what all lack is an error."""
    lacking: dict[str, str] = {}
    found: set[str] = set()

    def value(row: PlacedRow, path: str, canonical: str) -> Any:
        try:
            result = at_path(row, path)
        except _AbsentError as error:
            if path not in lacking:
                lacking[path] = (
                    f"{where_is(row)}: `data.columns` maps {canonical!r} to {path!r}, {error}"
                )
            return None
        found.add(path)
        return result

    for row in rows:
        added = {
            canonical: value(row, paths, canonical)
            if isinstance(paths, str)
            else [value(row, path, canonical) for path in paths]
            for canonical, paths in columns.items()
        }
        row.update(added)
    for path, message in lacking.items():
        if path not in found:
            raise DataError(message)


def at_path(row: Row, path: str) -> Any:
    """The value at a path of a row.

    Args:
        row: The row.
        path: Names and numbers with dots between them. A name is a key; in a list a number is a
            place (from 0, from the end where it is negative), and a name is the role of a speaker
            whose last turn is taken: `messages.assistant.content`, `conversations.-1.value`. A
            column whose own name holds dots is found as well.

    Returns:
        The value; None where a part of the way is null, or the list has no such place or speaker.

    Raises:
        _AbsentError: If there is no such key, saying what is there instead.
    """
    if path in row:  # a name of a flat file may hold dots of its own
        return row[path]
    value: Any = row
    for number, part in enumerate(path.split(".")):
        if value is None:
            return None
        if isinstance(value, Mapping):
            if part not in value:
                raise _AbsentError(_absent(part, value, row, deep=number > 0))
            value = value[part]
        elif isinstance(value, list | tuple):
            value = _turn(value, part)
        else:
            raise _AbsentError(
                f"which is not there: {'.'.join(path.split('.')[:number])!r} holds "
                f"{_shown(value)}, which has no parts."
            )
    return value


def _absent(part: str, value: Mapping[str, Any], row: Row, *, deep: bool) -> str:
    known = sorted(map(str, value))
    return (
        f"which is not there.{suggestion(part, known)} "
        + (f"There it has: {listed(known)}. " if deep else "")
        + f"Columns: {listed(sorted(map(str, row)))}."
    )


_ROLES = ("role", "from")
"""What chat data call the speaker of a turn."""


def _turn(turns: Sequence[Any], part: str) -> Any:
    """An element of a list: by its place, or the last one that somebody says."""
    if re.fullmatch(r"-?\d{1,9}", part):
        place_ = int(part)
        return turns[place_] if -len(turns) <= place_ < len(turns) else None
    spoken = [turn for turn in turns if isinstance(turn, Mapping) and _speaker(turn) is not None]
    if turns and not spoken:
        raise _AbsentError(
            f"and there is a list, in which {part!r} is nobody: its elements have no `role`. "
            f"Write a number instead, from 0, or from the end as -1; it begins with "
            f"{_shown(turns[0])}."
        )
    said = [turn for turn in spoken if _speaker(turn) == part]
    return said[-1] if said else None


def _speaker(turn: Mapping[str, Any]) -> str | None:
    return next((str(turn[name]) for name in _ROLES if turn.get(name) is not None), None)


def _shown(value: object) -> str:
    return listed([str(value)])


def paths_into(name: str, value: object) -> list[str]:
    """Paths for `data.columns` to texts within a structured value, the likeliest first.

    Args:
        name: The column.
        value: What it holds.

    Returns:
        At most four, such as `messages.user.content`; none where there is nothing within.
    """
    if isinstance(value, Mapping):
        return [f"{name}.{key}" for key in value][:4]
    if not isinstance(value, list | tuple) or not value:
        return []
    turns = [turn for turn in value if isinstance(turn, Mapping)]
    speakers = list(dict.fromkeys(filter(None, map(_speaker, turns))))
    if not speakers:
        return paths_into(f"{name}.0", value[0]) or [f"{name}.0", f"{name}.-1"]
    text = next((key for key in turns[-1] if key not in _ROLES), "content")
    return [f"{name}.{who}.{text}" for who in speakers][:4]


# --- files ---------------------------------------------------------------------------------------


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each split in a folder, shards in their order.

    A split is `train.csv`, shards (`train-00000-of-00002.parquet`, or `train-0.parquet` and
    `train-1.parquet`), or all files of a folder `train/`; in the folder itself or in its `data/`.

    Args:
        folder: The folder, or a file, which is the split `train`.

    Returns:
        Files by the name of the split; none where there is no such folder.
    """
    if folder.is_file():
        return {SINGLE_FILE_SPLIT: [folder]}
    if not folder.is_dir():
        return {}
    found = _splits_in(folder)
    if (folder / HUB_FOLDER).is_dir():
        for name, files in _splits_in(folder / HUB_FOLDER).items():
            found.setdefault(name, []).extend(files)
    return found


def _splits_in(folder: Path) -> dict[str, list[Path]]:
    files = _data_files(folder)
    stems = {file: file.name.removesuffix(suffix_of(file)) for file in files}
    shards = _shards(stems)
    found: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: (shards.get(file, ("", 0))[1], file.name)):
        found.setdefault(shards[file][0] if file in shards else stems[file], []).append(file)
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and inner.name != HUB_FOLDER and not inner.name.startswith((".", "_")):
            within = _data_files(inner)
            if within and _is_split(inner, within):
                found.setdefault(inner.name, []).extend(sorted(within, key=_natural))
    return found


_SPLIT_WORDS = frozenset({"train", "validation", "valid", "val", "dev", "test", "eval"})


def _is_split(folder: Path, files: Sequence[Path]) -> bool:
    """Whether a folder holds one split, rather than a dataset of its own with several."""
    stems = [file.name.removesuffix(suffix_of(file)) for file in files]
    named = {match["split"] if (match := _SHARD.match(stem)) else stem for stem in stems}
    return folder.name in _SPLIT_WORDS or not named & _SPLIT_WORDS


def _shards(stems: Mapping[Path, str]) -> dict[Path, tuple[str, int]]:
    """Files that are parts of a split, with the split's name and their numbers.

    Numbers without "of" are taken for those of shards where they count from 0 or 1 without a gap
    and no file has the split's own name: `report_2024.csv` is a split, not a shard.

    Args:
        stems: Files with their names, suffixes removed.

    Returns:
        For each file that is a shard, its split and its number.
    """
    matches = {file: match for file, stem in stems.items() if (match := _SHARD.match(stem))}
    found = {f: (m["split"], int(m["number"])) for f, m in matches.items() if m["of"]}
    counted: dict[str, list[Path]] = {}
    for file, match in matches.items():
        if not match["of"] and match["split"] not in stems.values():
            counted.setdefault(match["split"], []).append(file)
    for name, files in counted.items():
        numbers = {file: int(matches[file]["number"]) for file in files}
        first = min(numbers.values())
        if first in (0, 1) and sorted(numbers.values()) == list(range(first, first + len(files))):
            found |= {file: (name, number) for file, number in numbers.items()}
    return found


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for part, text in re.findall(r"(\d*)(\D*)", file.name)]


def _data_files(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.iterdir())
        if suffix_of(path) and not path.name.startswith((".", "_")) and path.is_file()
    ]  # fmt: skip


def _read_files(path: Path, split: str) -> list[PlacedRow] | None:
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
    files = _named(splits, split)
    if files is None:
        return None
    _check_parts(path, split, files)
    return [row for file in files for row in read_rows(file)]


def _named(splits: Mapping[str, list[Path]], name: str) -> list[Path] | None:
    """The files of a split; also of one that is named as a single shard is."""
    every = [file for split, files in splits.items() for file in files if file.parent.name != split]
    exact = [file for file in every if file.name.removesuffix(suffix_of(file)) == name]
    return splits.get(name) or exact or None


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
    matches = [_SHARD.match(file.name.removesuffix(suffix_of(file))) for file in files]
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


# --- the hub -------------------------------------------------------------------------------------


def _read_hub(
    data: DataSource, split: str, first: int | None, last: int | None
) -> list[PlacedRow] | None:
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
            return list(rows_of(table, f"{name} ({split})", first=(first or 0) + 1))
    except table_errors() as error:
        raise DataError(_hub_message(data, error)) from None


def _hub_message(data: DataSource, error: BaseException) -> str:
    text = one_line(error)
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
    if hindered := hub_hindered():
        cure = f"{hindered} {cure}"
    return f"The dataset {data.hub!r} cannot be loaded ({text}). {cure}"


@contextmanager
def _cache_only_without_hub(name: str) -> Iterator[None]:
    """Ask only the cache while the hub's address is unknown: the hub's client tries for minutes."""
    from datasets import config
    from huggingface_hub import constants

    if Path(name).exists() or constants.HF_HUB_OFFLINE or _hub_is_known(constants.ENDPOINT):
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
    if urllib.request.getproxies():
        return True  # a proxy knows names that this machine does not
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(endpoint).hostname, None)
    except OSError:
        return False
    return True
