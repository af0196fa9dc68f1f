"""What a cluster has for a sweep now, and what it could have: asked of Ray every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.executors.cluster_fit import worker_places
from orchestrator.spec.sections import ResourceSpec

LOOK_SECONDS = 5.0
"""How often the cluster is asked."""


@dataclass(frozen=True)
class Room:
    """Places for workers of one sweep."""

    there: int
    """Those of the nodes that are there."""
    most: int
    """As many as the sweep may hold: `resources.max_workers`; else those that are there or that,
    as far as is known, the autoscaler may add."""
    cpus: float
    """CPUs and GPUs of so many workers, or of the whole cluster where these are more."""
    gpus: float


def room_of(
    nodes: Sequence[Mapping[str, Any]],
    resources: ResourceSpec,
    addable: Sequence[Mapping[str, Any]],
) -> Room:
    """The room of a cluster.

    Args:
        nodes: As `ray.nodes()` gives them, those left out that are about to be taken away.
        resources: Of the sweep.
        addable: Node types of the autoscaler: `resources` of a node, and `count` at most, those
            that are there included.

    Returns:
        It.
    """
    there = worker_places(nodes, resources)
    may_be = sum(
        group["count"]
        * worker_places([{"Alive": True, "Resources": group["resources"]}], resources)
        for group in addable
    )
    most = resources.max_workers or max(there, may_be)
    has = [node["Resources"] for node in nodes if node.get("Alive")]
    cpus, gpus = (sum(each.get(kind, 0.0) for each in has) for kind in ("CPU", "GPU"))
    return Room(
        there,
        most,
        max(cpus, float(most * resources.cpus_per_worker)),
        max(gpus, float(most * resources.gpus_per_worker)),
    )


def node_types() -> list[dict[str, Any]]:
    """The node types that the cluster's autoscaler may add, as far as it tells."""
    from ray._private.state import state

    config = state.get_cluster_config()
    return [
        {"resources": dict(group.resources), "count": max(0, int(group.max_count))}
        for group in (config.node_group_configs if config is not None else ())
    ]


def draining_nodes() -> dict[str, float]:
    """The nodes that are about to be taken away, as clouds and autoscalers tell Ray.

    Returns:
        By id, when, in seconds since the epoch; 0 where that is not known.
    """
    from ray._private.state import state

    return {name: deadline / 1000 for name, deadline in state.get_draining_nodes().items()}


class ClusterRoom:
    """Asks the cluster, and remembers the answer for a while."""

    def __init__(
        self,
        resources: ResourceSpec,
        *,
        nodes: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
        draining: Callable[[], Mapping[str, float]] = draining_nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without an answer.

        Args:
            resources: Of the sweep.
            nodes: Gives them as `ray.nodes()` does; None: that one, and the autoscaler's types.
            draining: Gives those that are about to be taken away.
            clock: Seconds.
        """
        self._resources, self._nodes, self._clock = resources, nodes, clock
        self._ask_draining = draining
        self._room: Room | None = None
        self._due = 0.0
        self.grew = clock()
        """When nodes were seen that were not there before."""
        self.draining: Mapping[str, float] = {}
        """See `draining_nodes`."""

    def __call__(self) -> Room:
        """The room now, or a moment ago."""
        now = self._clock()
        if self._room is None or now >= self._due:
            found = self._asked()
            if self._room is not None and found.there > self._room.there:
                self.grew = now
            self._room, self._due = found, now + LOOK_SECONDS
        return self._room

    def _asked(self) -> Room:
        import ray

        self.draining = self._ask_draining()
        nodes = ray.nodes() if self._nodes is None else self._nodes()
        stay = [node for node in nodes if node.get("NodeID") not in self.draining]
        return room_of(stay, self._resources, node_types() if self._nodes is None else ())
