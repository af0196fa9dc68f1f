"""Which trials can share a base in the pool: read before anything is loaded, so without torch."""

from __future__ import annotations

from collections.abc import Mapping

from curlora_kinds.adapters.table import packed_adapters
from curlora_kinds.retentions.table import packed_retentions
from orchestrator.base.config import base_dropout
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.task_kinds import TaskSpec


def packing_refuses(method: MethodSpec) -> str | None:
    """Why a method cannot be trained in a pack.

    Args:
        method: The method.

    Returns:
        A sentence, or None where it can.
    """
    adapter, retention = method.adapter, method.retention.kind
    if adapter.kind not in packed_adapters():
        known = ", ".join(packed_adapters())
        return f"the adapter {adapter.kind!r} is not one of {known}, which can be packed"
    if getattr(adapter, "dropout", 0.0):
        return "its dropout masks would depend on the other trials in the pack"
    if retention not in packed_retentions():
        known = ", ".join(packed_retentions())
        return f"the retention {retention!r} is not one of {known}, which can be packed"
    return None


def base_refuses(experiment: Experiment, tasks: Mapping[str, TaskSpec]) -> str | None:
    """Why no trial of a sweep can be packed, whatever its method.

    Args:
        experiment: The sweep's.
        tasks: Task files by name.

    Returns:
        A sentence, or None where some can.
    """
    if experiment.model.quantization is not None:
        return f"the base is quantised ({experiment.model.quantization})"
    if dropped := base_dropout(experiment.model):
        name, rate = next(iter(dropped.items()))
        return (
            f"the base uses dropout ({name} {rate:g}); packed trials would share its random masks"
        )
    headed = [
        name
        for name in experiment.tasks
        if tasks[name].has_head
        or (experiment.head == "linear" and "head" in type(tasks[name]).model_fields)
    ]
    if headed:
        return f"linear heads ({', '.join(headed)}) are not built for packs"
    return None


def _differs(experiment: Experiment, sweep: Experiment) -> str | None:
    """What a trial wants otherwise than the members of the pool have it."""
    sides = [
        {
            "training.precision": one.training.precision,
            "resources.workers": one.resources.workers,
            "resources.cpus_per_worker": one.resources.cpus_per_worker,
            "resources.gpus_per_worker": one.resources.gpus_per_worker,
        }
        for one in (experiment, sweep)
    ]
    for name, asked in sides[0].items():
        if asked != sides[1][name]:
            return f"its `{name}` is {asked}, and the pool's members have {sides[1][name]}"
    return None


def trial_refuses(
    experiment: Experiment, tasks: Mapping[str, TaskSpec], sweep: Experiment | None = None
) -> str | None:
    """Why a trial cannot be trained in a pack.

    Args:
        experiment: The trial's, overrides applied.
        tasks: Task files by name.
        sweep: The sweep's, whose base and resources the members of the pool have; None: the
            trial's are the same.

    Returns:
        A sentence, or None where it can.
    """
    refused = base_refuses(experiment, tasks)
    if refused is None and experiment.training.accumulation != 1:
        refused = f"`training.accumulation` is {experiment.training.accumulation}, not 1"
    refused = refused or _differs(experiment, sweep or experiment)
    own = sorted(set(experiment.training.deepspeed) - {"zero_optimization"})
    if refused is None and own:
        refused = f"`training.deepspeed.{own[0]}` is DeepSpeed's, which a pack does not use"
    return refused or packing_refuses(experiment.method)
