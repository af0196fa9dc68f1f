"""What the nodes of a cluster compute with: asked of each node, and read of those that may come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.base.devices import Device, devices_here, named
from orchestrator.executors.cluster_fit import ClusterError
from orchestrator.spec.sections import ResourceSpec

ASK_SECONDS = 120.0
"""How long a node may take to say what it computes with: it loads torch, and a GPU may be busy."""
A_LITTLE = 0.001
"""Of a GPU, for a task that only looks at it."""
BEFORE_AMPERE = ("K80", "M60", "P4", "P40", "P100", "T4", "V100")
"""Accelerator types of Ray without products of bf16."""


def cluster_devices(resources: ResourceSpec) -> list[Device]:
    """The devices of the nodes that can hold a worker, and of the node types that may be added.

    Args:
        resources: Of the sweep.

    Returns:
        The devices; processors of node types that have no node yet are not known, and left out.

    Raises:
        ClusterError: If a node cannot be asked.
    """
    import ray

    asked = [node for node in ray.nodes() if node["Alive"] and holds_worker(node, resources)]
    found = node_devices([str(node["NodeID"]) for node in asked], resources)
    devices = [device for of_node in found.values() for device in of_node]
    return devices + (_addable_gpus(resources) if resources.gpus_per_worker else [])


def holds_worker(node: Mapping[str, Any], resources: ResourceSpec) -> bool:
    """Whether a node, as `ray.nodes()` gives it, has what one worker needs."""
    has = node["Resources"]
    return (
        has.get("CPU", 0.0) >= resources.cpus_per_worker
        and has.get("GPU", 0.0) >= resources.gpus_per_worker
    )


def node_devices(names: Sequence[str], resources: ResourceSpec) -> dict[str, list[Device]]:
    """The devices of some nodes, which are asked at once.

    Args:
        names: Their ids.
        resources: Of the sweep: whether GPUs are meant.

    Returns:
        By node.

    Raises:
        ClusterError: If a node cannot be asked.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_gpu = resources.gpus_per_worker > 0
    remote: Any = ray.remote(num_cpus=0, num_gpus=A_LITTLE if on_gpu else 0, max_retries=0)
    look = remote(devices_here)
    answers = {
        name: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)
        ).remote(on_gpu=on_gpu)
        for name in names
    }
    found: dict[str, list[Device]] = {}
    for name, answer in answers.items():
        try:
            found[name] = ray.get(answer, timeout=ASK_SECONDS)
        except RayError as error:
            raise ClusterError(
                f"Node {name} did not say whether it multiplies bf16 natively, which "
                f"`training.precision: auto` depends on: {' '.join(str(error).split())[-200:]}. "
                "Name a precision (`bf16` or `fp32`), or wait until the node is free."
            ) from None
    return found


class NodesToAvoid:
    """The nodes that joined since a sweep chose bf16, and that do not multiply it."""

    def __init__(self, resources: ResourceSpec, note: Callable[[str], None]) -> None:
        """Begin; no node is known yet.

        Args:
            resources: Of the sweep.
            note: Told of a node that is not used.
        """
        self._resources, self._note = resources, note
        self._known: dict[str, bool] = {}
        """By node, whether it is avoided."""

    def __call__(self) -> tuple[str, ...]:
        """Ask the nodes that are new, and give the ids of those to avoid."""
        import ray

        new = [
            str(node["NodeID"])
            for node in ray.nodes()
            if node["Alive"]
            and node["NodeID"] not in self._known
            and holds_worker(node, self._resources)
        ]
        for name, devices in node_devices(new, self._resources).items():
            without = [device for device in devices if not device.bf16]
            self._known[name] = bool(without)
            if without:
                self._note(
                    f"node {name[:8]} is not used: {named(without)} does not multiply bf16 "
                    f"({without[0].because}), which this sweep computes in"
                )
        return tuple(name for name, avoided in self._known.items() if avoided)


def _addable_gpus(resources: ResourceSpec) -> list[Device]:
    """The GPUs of node types that the cluster's autoscaler may add, as far as they are named."""
    from ray._private.state import state

    config = state.get_cluster_config()
    found: list[Device] = []
    for group in config.node_group_configs if config is not None else ():
        has = dict(group.resources)
        if not group.max_count or has.get("GPU", 0) < resources.gpus_per_worker:
            continue
        kinds = [key.partition(":")[2] for key in has if key.startswith("accelerator_type:")]
        for kind in kinds:
            old = kind in BEFORE_AMPERE
            because = f"the node type {group.name!r} that may be added has {kind}"
            found.append(Device(kind, bf16=not old, because=because))
    return found
