"""The Ray Train run that is a member of several workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchTrainer

from orchestrator.executors.job import MemberConfig
from orchestrator.executors.pool.member_worker import work_in_group
from orchestrator.executors.watching.shared_end import SharedEnd
from orchestrator.executors.worker_group import worker_group
from orchestrator.spec.sections import ResourceSpec

PLACEMENTS = 15
"""How often Ray Train tries to place a group, two minutes each, while a lost node is replaced."""
FOR_EVER = -1
"""Ray Train starts a group anew whenever a worker dies: spot workers come and go. The mailbox says
when to stop, by what it holds against trials and a member that dies before it has loaded."""


def run_group(
    config: MemberConfig, resources: ResourceSpec, run: Mapping[str, Any], group: Any
) -> None:
    """Run workers until they are told to end.

    Args:
        config: What each worker is told.
        resources: How many workers there are, and what each has.
        run: `name`, `storage_path` and `avoid`.
        group: The actor that speaks for them; its process is this one.
    """
    TorchTrainer(
        work_in_group,
        train_loop_config={"member": config, "group": group},
        **worker_group(resources, run["avoid"]),
        run_config=RunConfig(
            name=run["name"],
            storage_path=run["storage_path"],
            failure_config=FailureConfig(
                max_failures=FOR_EVER, controller_failure_limit=PLACEMENTS
            ),
            callbacks=[SharedEnd()],
        ),
    ).fit()
