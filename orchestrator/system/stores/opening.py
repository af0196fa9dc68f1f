"""Opening a storage: the folder on this machine in which a command finds what the store holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.system.stores.address import is_address, plain_address, working_folder
from orchestrator.system.stores.mirror import Mirror, mirror_of, settle
from orchestrator.system.stores.store import AT_ONCE
from orchestrator.system.stores.stored_lines import refresh_file

JOURNAL, REGISTRY, IDENTITY = "journal.jsonl", "registry.jsonl", "storage.json"


def opened(storage: str | Path) -> Path:
    """The folder in which the sweeps of a storage are found.

    Args:
        storage: The path of a folder, which is that folder, or an address: then its journals and
            its registry are fetched; adapters are once they are used.

    Returns:
        A path.

    Raises:
        StoreError: If the store does not answer.
    """
    folder = working_folder(storage)
    if is_address(storage):
        settle(folder, plain_address(str(storage)))
        refresh(folder)
    return folder


def address_of(folder: Path) -> str | None:
    """The address that a storage folder stands for; None of one that is its own truth."""
    mirror = mirror_of(folder.absolute())
    return None if mirror is None else mirror.address


def settle_storage(storage: str) -> None:
    """Let this machine know which store the working folder of an address stands for."""
    if is_address(storage):
        settle(working_folder(storage), plain_address(storage))


def refresh(folder: Path) -> None:
    """Fetch what was journalled and registered since; nothing where a folder is its own truth.

    Args:
        folder: A storage folder.

    Raises:
        StoreError: If the store does not answer, or lines are missing there.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        return
    names = [name[:-1] for name in mirror.store.children("") if name.endswith("/")]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in threads.map(lambda name: _refresh_sweep(mirror, name), names):
            pass
    if "registry" in names:
        refresh_file(mirror, folder / REGISTRY)
    mirror.bring_file(folder / IDENTITY)


def _refresh_sweep(mirror: Mirror, name: str) -> None:
    if not name.startswith(".") and "journal/" in mirror.store.children(name):
        refresh_file(mirror, mirror.root / name / JOURNAL)


def opened_for_writing(storage: str | Path) -> Path:
    """The same for a sweep that is to be run: the store has to keep a journal's promises.

    Args:
        storage: The path of a folder, or an address.

    Returns:
        A path, resolved.

    Raises:
        StoreError: If the store does not answer, or has no conditional writes.
    """
    folder = working_folder(storage).resolve()
    if is_address(storage):
        settle(folder, plain_address(str(storage)))
        mirror = mirror_of(folder)
        assert mirror is not None  # the working folder of an address is one
        mirror.store.probe()
        refresh(folder)
    return folder


def bring_sweep(folder: Path) -> None:
    """Have all of a sweep's folder here; nothing where it is its own truth.

    Args:
        folder: The sweep's.

    Raises:
        StoreError: If the store does not answer.
    """
    mirror = mirror_of(folder)
    if mirror is not None:
        mirror.bring_sweep(folder)


def bring(path: Path) -> None:
    """Have a folder here that was put as a whole, as the store has it."""
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.bring_folder(path)


def names_in(folder: Path) -> set[str]:
    """The names in a folder, here and in the store of its storage where it has one."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    mirror = mirror_of(folder)
    if mirror is not None:
        inside = folder.relative_to(mirror.root).as_posix()
        found |= {name.rstrip("/") for name in mirror.store.children(inside)}
    return found


def bring_all(folder: Path) -> None:
    """Have what is in a folder here as the store has it; what it has not is left alone."""
    mirror = mirror_of(folder)
    if mirror is not None:
        mirror.bring(folder)


def bring_file(path: Path) -> None:
    """Have a file here as the store has it."""
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.bring_file(path)


def share(path: Path) -> None:
    """Let the store have what was written here otherwise than for good (`durable`).

    Args:
        path: A file, or a folder of which every file is meant.

    Raises:
        StoreError: If the store does not answer.
    """
    mirror = mirror_of(path)
    if mirror is None:
        return
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        receipt = mirror.put(file, file)
        if receipt is not None:
            receipt.note()


def settle_once(path: Path) -> None:
    """Let the store have a small file of which there is one for all machines: the first one's.

    Args:
        path: The file; afterwards it is the one that the store holds.

    Raises:
        StoreError: If the store does not answer.
    """
    mirror = mirror_of(path)
    if mirror is None:
        return
    name = path.relative_to(mirror.root).as_posix()
    if not mirror.store.create(name, path.read_bytes()):
        mirror.bring_file(path)
