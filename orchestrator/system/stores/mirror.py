"""A working folder and the store that it stands for.

What is written for good in the folder (`durable`) is put into the store first, under the same name:
a file as an object, a folder that appears as a whole as one object, a tar, so that it is whole
there, too. A note beside (`.store/versions`) says which object each was, so that what another
machine has replaced is seen. Hidden files, databases and what only says how far something is stay
here. Lines that are added to (journals, the registry) have a way of their own, see `stored_lines`.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path

from orchestrator.system.stores.address import stores_folder
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.store import AT_ONCE, Store

NOTE_FILE = "store.json"
"""In a working folder: the address that it stands for."""
OWN_FOLDER = ".store"
_FOLDER, _PART = ".tar", ".part-"
_STAYS = {"journal.jsonl", "registry.jsonl", "progress.json", NOTE_FILE, "cards.json"}
_STAYS_ENDING = (".db", ".db-wal", ".db-shm", ".db-journal", ".half", ".new", ".old")
LOGS = {"journal", "writer", "registry"}
"""Folders of the store that hold numbered objects, not what lies here under that name."""


class Mirror:
    """A working folder, as the copy of a store."""

    def __init__(self, root: Path, address: str) -> None:
        """Name both; nothing is asked of the store yet.

        Args:
            root: The working folder.
            address: The store's.
        """
        self.root, self.address = root, address

    @cached_property
    def store(self) -> Store:
        """The store."""
        return Store(self.address)

    def name(self, path: Path) -> str | None:
        """What a file or folder is called in the store; None of what stays here."""
        parts = path.relative_to(self.root).parts
        if not parts or any(part.startswith(".") for part in parts):
            return None
        last = parts[-1]
        stays = last in _STAYS or last.endswith(_STAYS_ENDING) or ".db" in last
        return None if stays else "/".join(parts)

    # ------------------------------------------------------------------------------ what is put

    def put(self, fresh: Path, place: Path) -> Receipt | None:
        """Put into the store what is about to get a name here; None of what stays here."""
        name = self.name(place)
        if name is None:
            return None
        if fresh.is_dir():
            name += _FOLDER
            self.store.upload_folder(fresh, name)
        else:
            self.store.upload(fresh, name)
        return Receipt(self, name, self.store.version(name))

    def add(self, source: Path, folder: Path) -> None:
        """Put into the store what one of several writers adds to a folder."""
        name = self.name(folder)
        if name is not None:
            self.store.upload_folder(source, f"{name}{_PART}{uuid.uuid4().hex[:12]}{_FOLDER}")

    def remove(self, path: Path) -> None:
        """Remove from the store what is about to be removed here."""
        name = self.name(path)
        if name is not None:
            for found in self._of(name):
                self.store.remove([found])
                self._note(found).unlink(missing_ok=True)

    def move(self, path: Path, to: Path) -> None:
        """Let the store hold under another name what is about to be renamed here."""
        name, new = self.name(path), self.name(to)
        if name is None:
            return
        for found in self._of(name):
            if new is not None:
                self.store.copy(found, new + found.removeprefix(name))
            self.store.remove([found])
            self._note(found).unlink(missing_ok=True)

    def _of(self, name: str) -> dict[str, str]:
        """The objects of a file or folder, with their versions: itself, parts, content."""
        found = dict(self.store.below(name))
        parent, _, last = name.rpartition("/")
        for child in self.store.children(parent):
            if child in {last, last + _FOLDER} or (
                child.startswith(last + _PART) and child.endswith(_FOLDER)
            ):
                full = f"{parent}/{child}" if parent else child
                version = self.store.version(full)
                if version is not None:
                    found[full] = version
        return found

    # --------------------------------------------------------------------------- what is fetched

    def bring(self, folder: Path) -> None:
        """Have what is in a folder here as the store has it; what it has not is left alone.

        Args:
            folder: In the working folder.

        Raises:
            StoreError: If the store does not answer.
        """
        name = self.name(folder)
        if name is not None:
            self._fetch(self.store.below(name))

    def bring_folder(self, path: Path) -> None:
        """Have a folder here that was put as a whole; asks for that one object alone."""
        name = self.name(path)
        if name is not None and (version := self.store.version(name + _FOLDER)) is not None:
            self._fetch({name + _FOLDER: version})

    def bring_file(self, path: Path) -> None:
        """Have a file here; asks for that one object alone."""
        name = self.name(path)
        if name is not None and (version := self.store.version(name)) is not None:
            self._fetch({name: version})

    def bring_sweep(self, folder: Path) -> None:
        """Have all of a sweep's folder here, and nothing that the store holds no more."""
        name = folder.relative_to(self.root).as_posix()
        there = {
            found: version
            for found, version in self.store.below(name).items()
            if found.split("/")[1] not in LOGS
        }
        self._fetch(there)
        notes = self.root / OWN_FOLDER / "versions"
        known = (path.relative_to(notes).as_posix() for path in (notes / name).rglob("*"))
        for gone in [
            found for found in known if found not in there and self._note(found).is_file()
        ]:
            _remove(self._place(gone))
            self._note(gone).unlink(missing_ok=True)

    def _fetch(self, wanted: dict[str, str]) -> None:
        missing = [name for name, version in wanted.items() if not self._has(name, version)]
        self._each([(name, wanted[name]) for name in missing])

    def _each(self, wanted: Iterable[tuple[str, str]]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in threads.map(lambda one: self._fetch_one(*one), wanted):
                pass

    def _fetch_one(self, name: str, version: str) -> None:
        place = self._place(name)
        fresh = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.half")
        try:
            if not name.endswith(_FOLDER):
                self.store.download(name, fresh)
                fresh.replace(place)
            elif _PART in name:
                self.store.download_folder(name, place)
            else:
                self.store.download_folder(name, fresh)
                _swap(fresh, place)
        except FileNotFoundError:  # removed by who may
            return
        finally:
            _remove(fresh)
        self.note(name, version)

    def _place(self, name: str) -> Path:
        """Where an object lies here."""
        if name.endswith(_FOLDER):
            name = name.removesuffix(_FOLDER)
            name = name[: name.rindex(_PART)] if _PART in name.rpartition("/")[2] else name
        place = self.root / name
        if not place.resolve().is_relative_to(self.root):
            raise StoreError(f"{self.address} holds {name!r}, which leads out of it; not used.")
        return place

    # ------------------------------------------------------------------------ what is known here

    def _note(self, name: str) -> Path:
        return self.root / OWN_FOLDER / "versions" / name

    def _has(self, name: str, version: str) -> bool:
        with suppress(OSError):
            return self._note(name).read_text() == version and self._place(name).exists()
        return False

    def note(self, name: str, version: str | None) -> None:
        """Note which object it is that lies here."""
        note = self._note(name)
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_name(f"{note.name}.{os.getpid()}-{uuid.uuid4().hex[:6]}.half")
        fresh.write_text(version or "")
        fresh.replace(note)


class Receipt:
    """Of what was put: noted once it has its name here as well."""

    def __init__(self, mirror: Mirror, name: str, version: str | None) -> None:
        """Keep what is to be noted."""
        self._mirror, self._name, self._version = mirror, name, version

    def note(self) -> None:
        """What lies here is that object."""
        self._mirror.note(self._name, self._version)


def mirror_of(path: Path) -> Mirror | None:
    """The mirror that a path lies in; None in a folder that is its own truth."""
    stores = stores_folder()
    if not path.is_relative_to(stores) or path == stores:
        return None
    return _opened(stores / path.relative_to(stores).parts[0])


def settle(root: Path, address: str) -> None:
    """Make a working folder that stands for an address, where there is none yet."""
    note = root / NOTE_FILE
    if not note.is_file():
        root.mkdir(parents=True, exist_ok=True)
        fresh = root / f".{NOTE_FILE}-{uuid.uuid4().hex[:8]}"
        fresh.write_text(json.dumps({"address": address}) + "\n", encoding="utf-8")
        fresh.replace(note)


@cache
def _opened(root: Path) -> Mirror:
    try:
        address = json.loads((root / NOTE_FILE).read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(
            f"{root} should be the working folder of a storage at an address, and its {NOTE_FILE} "
            f"does not say of which ({error}). Name the storage by its address."
        ) from None
    return Mirror(root, address)


def _swap(fresh: Path, place: Path) -> None:
    """Put a folder into the place of another."""
    former = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.half")
    with suppress(FileNotFoundError):
        place.replace(former)
    fresh.replace(place)
    _remove(former)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
