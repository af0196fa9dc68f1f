"""Members of the pool as actors of Ray, each with a desk at which the driver meets it.

A member of one worker *is* its actor: no process group is needed, so that Ray Train's controller
and its three helpers, each a process that imports for seconds, would have nothing to do. A member
of several workers is a Ray Train run, which a light actor starts and speaks for.

The driver starts another actor where one has died. Nothing that is imported here at the top may
import torch: a light process stays light, and a worker leaves out what it does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from orchestrator.executors.desk import Admission, Desk, Heard
from orchestrator.executors.head_actor import head_actor
from orchestrator.executors.job import MemberConfig
from orchestrator.executors.messages import Message, Todo
from orchestrator.executors.worker_group import away_from
from orchestrator.spec.sections import ResourceSpec
from orchestrator.system.pulse import Pulse, pulse

MAIL = {"mail": 4}
"""Threads of an actor that answer while it works: the driver's."""
GROUP_MAIL = {"mail": 4, "workers": 4}
"""The same, and those for its workers."""


class LoneMember:
    """A member of one worker."""

    def __init__(self) -> None:
        """Begin without a base."""
        self._desk = Desk()
        self._node = ray.get_runtime_context().get_node_id()

    def serve(self, config: MemberConfig, deaths: int) -> str | None:
        """Work until the driver says that it is the end; see `work_alone`."""
        from orchestrator.executors.pool.member_worker import work_alone

        return work_alone(config, self._desk, deaths)

    @ray.method(concurrency_group="mail")
    def swap(self, todo: Todo, known: str, admission: Admission | None = None) -> Heard:
        """Meet the driver. That this process answers is its sign of life."""
        self._desk.beat(pulse())
        return replace(self._desk.swap(todo, known, admission), node=self._node)


class MemberGroup:
    """A member of several workers: a Ray Train run."""

    def __init__(self) -> None:
        """Begin without workers."""
        self._desk = Desk()
        self._lost: str | None = None

    def serve(
        self, config: MemberConfig, resources: ResourceSpec, run: dict[str, Any]
    ) -> str | None:
        """Run the group until the driver says that it is the end.

        Args:
            config: What each worker is told.
            resources: How many workers there are, and what each has.
            run: `name`, `storage_path` and `avoid`.

        Returns:
            None once it was told to end; why it cannot work, where starting anew would not help.
        """
        from orchestrator.executors.pool.group_run import run_group

        run_group(config, resources, run, ray.get_runtime_context().current_actor)
        return self._lost

    @ray.method(concurrency_group="mail")
    def swap(self, todo: Todo, known: str, admission: Admission | None = None) -> Heard:
        """Meet the driver."""
        return self._desk.swap(todo, known, admission)

    @ray.method(concurrency_group="workers")
    def begin(self) -> int | None:
        """Asked by the first worker, see `Desk.begin`."""
        return self._desk.begin()

    @ray.method(concurrency_group="workers")
    def beat(self, found: Pulse) -> None:
        """A sign of life of the first worker, and how it stands with its work."""
        self._desk.beat(found)

    @ray.method(concurrency_group="workers")
    def exchange(self, incarnation: str, said: Sequence[tuple[str, Message]], free: int) -> Todo:
        """Meet the first worker."""
        return self._desk.exchange(incarnation, said, free)

    @ray.method(concurrency_group="workers")
    def lost(self, reason: str) -> None:
        """The workers cannot work, and would not if they were started anew."""
        self._lost = reason


def lone_member(resources: ResourceSpec, avoid: Sequence[str]) -> Any:
    """Start the actor of a member of one worker.

    Args:
        resources: What it has.
        avoid: Ids of nodes on which it is not placed.

    Returns:
        Its handle.
    """
    options: dict[str, Any] = {
        "num_cpus": resources.cpus_per_worker, "num_gpus": resources.gpus_per_worker,
        "max_restarts": 0, "concurrency_groups": MAIL,
    }  # fmt: skip
    if (selector := away_from(avoid)) is not None:
        options["label_selector"] = selector
    return ray.remote(**options)(LoneMember).remote()


def member_group() -> Any:
    """Start the light actor of a member of several workers; give its handle."""
    return head_actor(MemberGroup, GROUP_MAIL)
