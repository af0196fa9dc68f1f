"""Checks of the storage folder and of MLflow's database in it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.planning.doctor.check import Check
from orchestrator.planning.storage_folder import existing_folder, free_disk, probe_storage
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.mlflow.storage_folder import network_file_system
from orchestrator.system.byte_units import GIB
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.mirror import mirror_of

ENOUGH_DISK = 10 * GIB


def check_writable(storage: Path) -> Check:
    """Whether sweeps can be kept in the storage folder."""
    existing = existing_folder(storage)
    try:
        probe_storage(existing)
    except OSError as error:
        return Check(
            "Storage",
            "FAIL",
            f"{existing} cannot be written: {error.strerror or error}",
            "Set `storage` in the experiment file to a folder that you can write to.",
        )
    mirror = mirror_of(storage)
    if mirror is not None:
        try:
            mirror.store.probe()
        except StoreError as error:
            return Check("Storage", "FAIL", mirror.address, str(error))
        return Check(
            "Storage", "PASS", f"{mirror.address} has conditional writes; worked on in {storage}"
        )
    note = "" if existing == storage.absolute() else ", which is to be made"
    return Check("Storage", "PASS", f"{storage}{note}")


def check_database(storage: Path) -> Check:
    """Whether MLflow's database in the storage folder lies on a disk that SQLite can trust."""
    kind = network_file_system(tracking_uri(None, storage))
    if kind is not None:
        return Check(
            "Database",
            "WARN",
            f"{storage} is on a network file system ({kind}), and SQLite relies on locks that "
            "such ones keep badly",
            "Name a file on a local disk by `tracking: {uri: sqlite:////home/YOU/mlflow.db}`, or a "
            "server.",
        )
    return Check("Database", "PASS", "MLflow's database would be on a disk of this machine")


def check_disk(storage: Path) -> Check:
    """Room where sweeps are kept."""
    free = free_disk(storage)
    if free is None:
        return Check("Disk", "WARN", f"unknown in {storage}", "See whether the disk answers.")
    text = f"{free / GIB:.1f} GiB free in {storage}"
    if free < ENOUGH_DISK:
        return Check(
            "Disk",
            "WARN",
            text,
            "Free some, or set `storage` elsewhere; `orchestrate plan FILE` says what is needed.",
        )
    return Check("Disk", "PASS", text)
