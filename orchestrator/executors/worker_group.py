"""Ray Train worker groups: their resources, and what DeepSpeed reads from their environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from orchestrator.engines.shm_op import keep_in_environment
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import ResourceSpec

QUANTISERS = ("bitsandbytes", "torchao")
"""Packages that PEFT and transformers import wherever they are installed: a sixth of the time that
a worker's imports take."""


def leave_out_quantisers(experiment: Experiment) -> None:
    """Let this process do without the packages that quantise a base, where none is quantised.

    To be called before PEFT is imported. A process of a worker serves one sweep, so that nothing
    will ask for them later.

    Args:
        experiment: What the worker is for.
    """
    if experiment.model.quantization is None:
        for name in QUANTISERS:
            sys.modules.setdefault(name, cast("ModuleType", None))


NODE_ID = "ray.io/node-id"
"""The label by which Ray knows a node."""


def prepare_for_deepspeed(experiment: Experiment) -> None:
    """Set what DeepSpeed reads from the environment; before torch or DeepSpeed are imported.

    Args:
        experiment: What the worker is for.
    """
    if experiment.resources.gpus_per_worker == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"
        keep_in_environment()
    # Of another launcher (MPI, DeepSpeed's own): workers of as many would then exchange through
    # /dev/shm, 66 MiB each, and die where a container has 64.
    os.environ.pop("LOCAL_SIZE", None)
    # DeepSpeed looks for ninja on the path; ours is beside the interpreter. Another version of it
    # would compile again what `orchestrate doctor --build` has compiled.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def away_from(nodes: Sequence[str]) -> dict[str, str] | None:
    """Ray's label selector for every node but some, given by their ids; None where it is any."""
    return {NODE_ID: f"!in({','.join(nodes)})"} if nodes else None


def worker_group(resources: ResourceSpec, avoid: Sequence[str] = ()) -> dict[str, Any]:
    """What Ray Train is told of the workers of a trial, or of a member of the pool.

    Args:
        resources: Their number and what each has.
        avoid: Ids of nodes on which none is placed.

    Returns:
        `scaling_config` and `torch_config` of a `TorchTrainer`.
    """
    from ray.train import ScalingConfig

    from orchestrator.executors.links.torch_group import GroupConfig

    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    return {
        "scaling_config": ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
            label_selector=away_from(avoid),
        ),
        "torch_config": GroupConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
    }
