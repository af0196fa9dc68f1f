"""Actors and placement groups that a sweep has left on a cluster."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from orchestrator.executors.ray_session import error_line

_SERVICES = ("_AutoscalingCoordinatorActor",)
"""Actors that Ray itself keeps for the whole cluster, whoever asked first."""


@dataclass(frozen=True)
class Leftovers:
    """What a sweep left on the cluster."""

    actors: tuple[str, ...] = ()
    placement_groups: tuple[str, ...] = ()
    unknown: str = ""
    """Why it could not be asked; empty where it was."""

    def __bool__(self) -> bool:
        """Whether anything is known to be left."""
        return bool(self.actors or self.placement_groups)

    def __str__(self) -> str:
        """What is left, in words."""
        named = {"actor": self.actors, "placement group": self.placement_groups}
        return ", ".join(f"{kind} {one}" for kind, many in named.items() for one in many)


def alive() -> Leftovers:
    """Actors and placement groups of this driver's job that are alive now, as the dashboard says.

    Returns:
        What there is. A cluster that was started without a dashboard cannot be asked.
    """
    import ray
    from ray.util.state import list_actors, list_placement_groups
    from ray.util.state.exception import RayStateApiException

    context = ray.get_runtime_context()
    job = context.get_job_id()
    # The address is named because other Ray clusters may run on this machine.
    where: dict[str, Any] = {"address": context.gcs_address, "limit": 1000}
    try:
        actors: list[Any] = list_actors(filters=[("job_id", "=", job)], **where)
        groups: list[Any] = list_placement_groups(filters=[("creator_job_id", "=", job)], **where)
    except (RayStateApiException, ValueError, RuntimeError, OSError) as error:
        return Leftovers(unknown=f"{error_line(error)} (Ray's dashboard answers such questions)")
    return Leftovers(
        tuple(
            f"{actor.class_name} {actor.actor_id[:8]}"
            for actor in actors
            if actor.state != "DEAD" and actor.class_name not in _SERVICES
        ),
        tuple(g.placement_group_id[:8] for g in groups if g.state != "REMOVED"),
    )


def wait_until_clean(timeout_s: float = 20.0) -> Leftovers:
    """Wait until no actor or placement group of this driver is left.

    Args:
        timeout_s: How long to wait.

    Returns:
        What is left after that; nothing, normally.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left = alive()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.25)
