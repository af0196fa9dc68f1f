"""Checks of a cluster that is joined: this process drives it, and its nodes share the storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.executors.cluster_fit import ClusterError
from orchestrator.system import durable
from orchestrator.system.package_versions import package_version
from orchestrator.system.stores.mirror import mirror_of, settle
from orchestrator.system.stores.opening import bring_file


def check_driver(address: str | None) -> None:
    """Refuse a cluster to which this process is only a client.

    Args:
        address: As it was given; None: whatever Ray this process is connected to, if any.

    Raises:
        ClusterError: If the address is one of Ray Client's, or was when Ray was connected.
    """
    from ray.util.client import ray as client

    if not (address or "").startswith("ray://") and not client.is_connected():
        return
    raise ClusterError(
        "A sweep cannot be driven through Ray Client (`ray://`): the driver would not be on "
        "the cluster, with its journal and its storage. Give the command on a node of the "
        "cluster, with `--address auto`: `ray attach cluster.yaml` opens a shell on the head, and "
        "`ray job submit` runs a command there."
    )


def check_nodes(folder: Path, base: Mapping[str, int], versions: Mapping[str, str | None]) -> None:
    """Prove that every other node of the cluster can do a worker's part.

    Args:
        folder: The sweep's folder, which each must be able to write to for good.
        base: The files of the base model and their bytes, all of which each must be able to
            read; none where it comes from a hub.
        versions: The packages here, by name; each must have the same, or numbers would depend on
            where a trial runs.

    Raises:
        ClusterError: If one cannot; the message names it.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]
    if not nodes:
        return
    probe: Any = ray.remote(num_cpus=0, max_retries=0)(_as_a_worker)
    mirror = mirror_of(folder)
    place = folder if mirror is None else f"{mirror.address}/{folder.name}"
    store = None if mirror is None else (mirror.root, mirror.address)
    probes = folder / "nodes"
    probes.mkdir(parents=True, exist_ok=True)
    for node in nodes:
        name, address = str(node["NodeID"]), str(node["NodeManagerAddress"])
        strategy = NodeAffinitySchedulingStrategy(name, soft=False)
        try:
            there: dict[str, Any] = ray.get(
                probe.options(scheduling_strategy=strategy).remote(
                    probes / name, name, dict(base), sorted(versions), store
                ),
                timeout=60,
            )
        except (OSError, RayError) as error:
            raise ClusterError(
                f"Node {address} cannot write to {place}: "
                f"{' '.join(str(error).split())[-200:]}. On several nodes `storage` must be a "
                "folder that all of them share, or an address that all of them can write to."
            ) from None
        bring_file(probes / name)
        if not (probes / name).is_file():
            raise ClusterError(
                f"What node {address} wrote to {place} is not seen here: its "
                "`storage` is another disk. On several nodes `storage` must be a shared folder."
            )
        durable.remove(probes / name)
        _compare(address, there, versions)
    probes.rmdir()


def groups_refused(folder: Path) -> str | None:
    """Why no trial or member can have workers of Ray Train; None where it can.

    Ray Train wants a folder that all nodes share, or a file system of its own.

    Args:
        folder: The sweep's folder.

    Returns:
        What cannot be, and what can.
    """
    import ray

    mirror = mirror_of(folder)
    if mirror is None or sum(node["Alive"] for node in ray.nodes()) < 2:
        return None
    return (
        f"With `storage` at an address ({mirror.address}) on a cluster of several nodes, trials "
        "run in members of the pool of one worker each; groups of workers (`executor: train`, "
        "methods that cannot be packed, `workers` above 1) are not built for that. Set `storage` "
        "to a folder that all nodes share, or run on one node."
    )


def _as_a_worker(
    path: Path,
    content: str,
    base: dict[str, int],
    packages: list[str],
    store: tuple[Path, str] | None = None,
) -> Any:
    """On a node: write as a worker would, and say what it has and sees."""
    if store is not None:
        settle(*store)
    durable.write(path, content)
    found = (_unread(Path(name), size) for name, size in base.items())
    return {
        "versions": {name: package_version(name) for name in packages},
        "unread": next((wrong for wrong in found if wrong), ""),
    }


def _unread(file: Path, size: int) -> str:
    """Why a file is not the one that a driver has; empty where it may be."""
    try:
        with file.open("rb") as opened:
            opened.read(1)
            there = os.fstat(opened.fileno()).st_size
    except OSError as error:
        return f"{file}: {error.strerror or error}"
    return "" if there == size else f"{file} has {there:,} bytes there and {size:,} here"


def _compare(
    address: str, there: Mapping[str, Any], versions: Mapping[str, str | None]
) -> None:  # fmt: skip
    if there["unread"]:
        raise ClusterError(
            f"Node {address} cannot read the base model as it is here: {there['unread']}. Put it "
            "into a folder that all nodes share, or name it by its place on a hub."
        )
    other = [
        f"{name} {there['versions'].get(name)} (here {version})"
        for name, version in versions.items()
        if there["versions"].get(name) != version
    ]
    if other:
        raise ClusterError(
            f"Node {address} has other versions: {', '.join(other)}. Numbers would depend on where "
            "a trial runs. Install the packages of `constraints.txt` on every node."
        )
