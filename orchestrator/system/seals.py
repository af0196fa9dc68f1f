"""What vouches for a folder of tensors: who made it, from what, and the hash of each of its files.

A sealed folder holds `seal.json`, written last. A checkpoint is used, and an adapter is kept, only
if every file is there as it was sealed and the seal is the one that was expected: a folder of
another sweep or trial, of other settings or data, or a damaged one, is set aside.

Where several workers write into one folder, each seals its own files (`seal-1.json` and so on);
the first one's seal says how many there are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.system.stores.mirror import mirror_of
from orchestrator.system.strict_json import plain

SEAL_FILE = "seal.json"
UNSEALED = "it has no seal"
_SEALS = re.compile(r"seal(-\d+)?\.json")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Maker:
    """Whose work a folder is."""

    sweep: str
    """The sweep's identity, from its first line; "" of a sweep that has none."""
    trial: str
    made_of: str
    """Hash of the settings, the data and the base that the trial follows from."""
    unsealed: bool = False
    """Whether the trial was begun by a version that sealed nothing, so that nothing can be
    expected of what it left."""


def seal(folder: Path, maker: Maker | None, *, part: int = 0, parts: int = 1) -> None:
    """Vouch for what is in a folder now.

    Args:
        folder: The folder; files in folders below count, other seals at its top do not.
        maker: Whose work it is; None: nobody's in particular, the files alone are sealed.
        part: Which of the writers this is.
        parts: How many writers the folder has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = file_hashes(folder)
    document: dict[str, Any] = {"files": files, "parts": parts, "content": content_hash(files)}
    if maker is not None:
        document |= {k: v for k, v in asdict(maker).items() if k != "unsealed"}
    text = json.dumps({**document, "sha256": _own_hash(document)}, indent=1)
    _seal_file(folder, part).write_text(text + "\n", encoding="utf-8")


def flaw(folder: Path, maker: Maker | None = None) -> str | None:
    """What is wrong with a sealed folder.

    Args:
        folder: The folder.
        maker: Whose work it should be; None: anybody's.

    Returns:
        The first thing that is wrong, in words that follow "because"; None when the folder is as
        it was sealed. `UNSEALED` when it has no seal.
    """
    if not _seal_file(folder, 0).is_file():
        return UNSEALED
    try:
        first = read_seal(folder)
        seals = [first, *(_read(folder, part) for part in range(1, int(first["parts"])))]
        foreign = next(filter(None, (_of_another(document, maker) for document in seals)), None)
        files = {name: digest for document in seals for name, digest in document["files"].items()}
        return foreign or _damage(folder, files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its seal cannot be read ({error})"


def read_seal(folder: Path) -> dict[str, Any]:
    """The seal of a folder.

    Args:
        folder: The folder.

    Returns:
        `files` (name to sha256), `content` (one hash of them all), `parts`, and `sweep`, `trial`
        and `made_of` where it has a maker.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    return _read(folder, 0)


def file_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file in and below a folder, by name; see `_names`."""
    return {name: file_sha256(folder / name) for name in _names(folder)}


def _names(folder: Path) -> list[str]:
    """The files that a seal vouches for: hidden ones and seals at the top are none of them."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(filter(is_vouched_for, names))


def is_vouched_for(name: str) -> bool:
    """Whether a seal counts a file of that name, relative to the folder."""
    return not name.startswith(".") and not _SEALS.fullmatch(name)


def content_hash(files: Mapping[str, str]) -> str:
    """One hash of the names and hashes of some files."""
    return _hash(dict(files))


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def aside_name(path: Path) -> Path:
    """A free name beside a file or folder, under which it is kept and nobody uses it."""
    number = 1
    while (aside := path.with_name(f"{path.name}.set-aside-{number}")).exists():
        number += 1
    return aside


def move_aside(path: Path) -> Path:
    """Rename a file or folder, so that it is kept and nobody uses it.

    Args:
        path: What is foreign or damaged.

    Returns:
        Its new name, beside the old one.
    """
    aside = aside_name(path)
    if (mirror := mirror_of(path)) is not None:
        mirror.move(path, aside)
    path.rename(aside)
    return aside


def _seal_file(folder: Path, part: int) -> Path:
    return folder / (SEAL_FILE if part == 0 else f"seal-{part}.json")


def _read(folder: Path, part: int) -> dict[str, Any]:
    document = plain(_seal_file(folder, part).read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"it holds {document!r}, not a document")  # noqa: TRY004
    own = document.pop("sha256", None)
    if own != _own_hash(document):
        raise ValueError("it was changed")
    return document


def _of_another(document: Mapping[str, Any], maker: Maker | None) -> str | None:
    """In how far a seal is not the one that was expected."""
    if maker is None:
        return None
    found = (document.get("sweep"), document.get("trial"))
    if found != (maker.sweep, maker.trial):
        return f"it belongs to trial {found[1]} of the sweep {found[0]}"
    if document.get("made_of") != maker.made_of:
        return "it was made with other settings, data or base"
    return None


def _damage(folder: Path, files: Mapping[str, str]) -> str | None:
    added = [name for name in _names(folder) if name not in files]
    if added:
        return f"its file {added[0]} was added later"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"its file {name} is missing"
        if file_sha256(path) != expected:
            return f"its file {name} is damaged"
    return None


def _own_hash(document: Mapping[str, Any]) -> str:
    return _hash({key: value for key, value in document.items() if key != "sha256"})


def _hash(document: Any) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
