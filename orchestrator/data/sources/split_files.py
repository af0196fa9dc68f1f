"""Which files of a folder belong to which split, shards in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.data.formats.row_files import suffix_of

SINGLE_FILE_SPLIT = "train"
"""The split that a source of one file is."""
HUB_FOLDER = "data"
"""Where a dataset of the hub keeps its files."""


SHARD = re.compile(
    r"^(?P<split>.+?)[-_.](?P<number>\d{1,9})(?:-of-(?P<of>\d{1,9}))?(?:-[0-9a-f]{8,})?$"
)


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
    named = {match["split"] if (match := SHARD.match(stem)) else stem for stem in stems}
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
    matches = {file: match for file, stem in stems.items() if (match := SHARD.match(stem))}
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


def files_of_split(splits: Mapping[str, list[Path]], name: str) -> list[Path] | None:
    """The files of a split; also of one that is named as a single shard is."""
    every = [file for split, files in splits.items() for file in files if file.parent.name != split]
    exact = [file for file in every if file.name.removesuffix(suffix_of(file)) == name]
    return splits.get(name) or exact or None
