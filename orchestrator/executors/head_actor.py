"""Light actors of ours: on the head node, since the other nodes may be taken away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.executors.cluster_fit import HEAD_RESOURCE, HEAD_SHARE


def head_actor(kind: type[Any], threads: Mapping[str, int]) -> Any:
    """Start an actor that holds no CPU.

    Args:
        kind: Its class.
        threads: How many of each concurrency group answer while it works.

    Returns:
        Its handle.
    """
    import ray

    options: dict[str, Any] = {
        "num_cpus": 0, "resources": {HEAD_RESOURCE: HEAD_SHARE}, "max_restarts": 0,
        "concurrency_groups": dict(threads),
    }  # fmt: skip
    return ray.remote(**options)(kind).remote()
