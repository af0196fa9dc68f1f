"""Checks of a cluster that is joined: this process drives it, and its nodes share the storage."""

from __future__ import annotations

from pathlib import Path

from orchestrator.executors.cluster_fit import ClusterError


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


def check_storage(folder: Path) -> None:
    """Prove that every other node of the cluster can write to the sweep's storage.

    Args:
        folder: The sweep's folder.

    Raises:
        ClusterError: If a node cannot write there, or writes to another disk.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != own]
    if not nodes:
        return

    @ray.remote(num_cpus=0, max_retries=0)
    def write(path: str, content: str) -> None:
        target = Path(path)
        target.write_text(content, encoding="utf-8")

    probes = folder / "nodes"
    probes.mkdir(parents=True, exist_ok=True)
    for node in nodes:
        name = str(node["NodeID"])
        strategy = NodeAffinitySchedulingStrategy(name, soft=False)
        try:
            ray.get(
                write.options(scheduling_strategy=strategy).remote(str(probes / name), name),
                timeout=60,
            )
        except (OSError, RayError) as error:
            raise ClusterError(
                f"Node {node['NodeManagerAddress']} cannot write to {folder}: "
                f"{' '.join(str(error).split())[-200:]}. On several nodes `storage` must be a "
                "folder that all of them share."
            ) from None
        if not (probes / name).is_file():
            raise ClusterError(
                f"What node {node['NodeManagerAddress']} wrote to {folder} is not seen here: its "
                "`storage` is another disk. On several nodes `storage` must be a shared folder."
            )
        (probes / name).unlink()
    probes.rmdir()
