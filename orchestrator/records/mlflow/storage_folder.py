"""The storage folder behind MLflow's records: its identity, its file system, and moving it."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.mlflow.address import (
    database_file,
    is_database,
    is_own_database,
    local_path,
    place_in,
)
from orchestrator.records.mlflow.client import connect
from orchestrator.system import durable
from orchestrator.system.stores.opening import settle_once

if TYPE_CHECKING:
    from mlflow import MlflowClient

NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "ceph", "glusterfs", "beegfs", "afs",
    "9p", "ocfs2", "gfs2", "pvfs2", "orangefs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone",
    "fuse.gcsfuse", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.mount-s3", "fuse.blobfuse",
    "fuse.blobfuse2", "fuse.davfs",
}  # fmt: skip
"""Kinds of file systems that several machines share, as Linux names them."""


def network_file_system(address: str, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """What kind of network file system a database lies on.

    SQLite relies on locks between processes that such file systems keep badly or not at all.

    Args:
        address: Where MLflow records.
        mounts: The kernel's list of what is mounted where.

    Returns:
        The kind, such as `nfs4`; None for a local disk, for no SQLite file, and where it is not
        known.
    """
    file, found = database_file(address), ("", "")
    if file is None or not mounts.is_file():
        return None
    folder = str(file.parent.resolve())
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        # Spaces and the like are written as octal numbers.
        place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), left.split()[4])
        inside = folder == place or folder.startswith(f"{place.rstrip('/')}/")
        # Of two on one place the later one is seen.
        if inside and len(place) >= len(found[0]):
            found = (place, right.split()[0])
    return found[1] if found[1] in NETWORK_FILE_SYSTEMS else None


_IDENTITY_FILE = "storage.json"


def storage_identity(address: str, storage: Path, *, make: bool = False) -> str:
    """What tells the sweeps of a storage folder from those of others in the same MLflow.

    The file that holds it says where the folder lay: where that folder has the same identity still,
    this one is a copy and gets another, so that the two do not write into each other.

    Args:
        address: Where MLflow records.
        storage: The storage folder.
        make: Choose one where there is none yet, or that of the folder it was copied from.

    Returns:
        A word that stays when the folder moves; `own` in the storage folder's own database, and
        empty where there is none.
    """
    if is_own_database(address, storage):
        return "own"
    place, here = storage / _IDENTITY_FILE, str(storage.resolve())
    known = _identity_in(place)
    if not make:
        return known.get("storage", "")
    if not known:
        half = storage / f".{_IDENTITY_FILE}-{os.getpid()}"
        made = {"storage": uuid.uuid4().hex, "place": here}
        half.write_text(json.dumps(made) + "\n", encoding="utf-8")
        durable.sync(half)
        try:
            with suppress(FileExistsError):  # another sweep was faster, and its choice stands
                place.hardlink_to(half)
        finally:
            half.unlink()
        settle_once(place)
        known = _identity_in(place)
    elif known.get("place") != here:
        if _is_copy(known, place):
            known = {"storage": uuid.uuid4().hex, "copied_from": known["storage"]}
        known = {**known, "place": here}
        durable.write(place, json.dumps(known) + "\n")
    return known["storage"]


def copied_from(storage: Path) -> str:
    """The identity of the storage folder that one was copied from; empty where it was not."""
    return _identity_in(storage / _IDENTITY_FILE).get("copied_from", "")


def _identity_in(place: Path) -> dict[str, str]:
    if not place.is_file():
        return {}
    return {key: str(v) for key, v in json.loads(place.read_text(encoding="utf-8")).items()}


def _is_copy(known: dict[str, str], place: Path) -> bool:
    """Whether the folder that an identity was made in has it still, and is another one."""
    # Earlier versions did not write where that was: a folder that moved is the commoner case.
    if "place" not in known:
        return False
    original = Path(known["place"]) / _IDENTITY_FILE
    with suppress(OSError, ValueError):
        same = _identity_in(original).get("storage") == known["storage"]
        return same and not original.samefile(place)
    return False


_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where a database says where artifacts are: table and column."""


def connect_here(
    address: str, storage: Path, *, say: Callable[[str], None] | None = None
) -> MlflowClient:
    """A client whose database points at the artifacts of this storage folder.

    Whoever writes through it writes nothing into a folder that this one was copied from.

    Args:
        address: Where MLflow records.
        storage: The storage folder.
        say: Told what had to be mended.

    Returns:
        As `connect` gives it.
    """
    client = connect(address, say=say)
    if relocate(address, storage) and say is not None:
        say(
            f"MLflow's artifacts were recorded at another place and are now looked for in {storage}"
        )
    return client


def relocate(address: str, storage: Path) -> bool:
    """Let a database point at the artifacts in a storage folder that has been moved or copied.

    Artifacts are recorded by absolute addresses. Those of experiments whose folder came along are
    rewritten, all at once, if the database is the storage folder's own, or if nothing is left where
    they were.

    Args:
        address: Where MLflow records; a server keeps artifacts itself and is left alone.
        storage: The storage folder.

    Returns:
        Whether anything had to be rewritten.
    """
    if not is_database(address):
        return False
    import sqlalchemy
    from sqlalchemy import text

    own, storage = is_own_database(address, storage), storage.resolve()
    engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as opened:
        found = opened.execute(text("SELECT artifact_location FROM experiments")).scalars().all()
    moved = {str(old): new for old in found if (new := _moved(str(old), storage, own=own))}
    if not moved:
        return False
    with engine.begin() as opened:
        for table, column in _ADDRESSES:
            rows = opened.execute(text(f"SELECT DISTINCT {column} FROM {table}")).scalars().all()
            changes = [(str(row), new) for row in rows if row and (new := _rewritten(row, moved))]
            for before, after in changes:
                opened.execute(
                    text(f"UPDATE {table} SET {column} = :after WHERE {column} = :before"),
                    {"before": before, "after": after},
                )
    return True


def _moved(location: str, storage: Path, *, own: bool) -> str | None:
    """The address in the storage folder of what an experiment has recorded elsewhere."""
    path, here = local_path(location), place_in(storage, location)
    if path is None or here is None or path == here:
        return None
    # In a database elsewhere other storage folders have experiments, too. One's own never points at
    # another folder, though nothing came along: what a copy records would lie in its original.
    return here.as_uri() if own or here.exists() > path.exists() else None


def _rewritten(address: str, moved: dict[str, str]) -> str | None:
    for before, after in moved.items():
        if address == before or address.startswith(f"{before}/"):
            return after + address[len(before) :]
    return None
