"""`training.batch_invariant`: where a trial's bits need not depend on the trials beside it."""

from __future__ import annotations

from orchestrator.spec.sections import ResourceSpec, TrainingSpec

MOST_THREADS = 2
"""Threads of a worker on a CPU. More part a tensor within the numbers that a processor computes at
once, and those left over are rounded otherwise."""


def invariance_refused(resources: ResourceSpec) -> str | None:
    """Why trials of the pool cannot be computed to the same bits in any company.

    Args:
        resources: Of the sweep.

    Returns:
        A clause with the cure, or None where they can, or are alone in any case.
    """
    if resources.executor != "pool":
        return None
    if resources.workers > 1:
        return (
            f"`resources.workers` is {resources.workers}: gradients are summed over workers, and "
            "which of them has a trial's rows depends on the other trials; set it to 1"
        )
    if not resources.gpus_per_worker and resources.cpus_per_worker > MOST_THREADS:
        return (
            f"`resources.cpus_per_worker` is {resources.cpus_per_worker}; set it to 1 or "
            f"{MOST_THREADS}, and have more members"
        )
    return None


def is_default(training: TrainingSpec, resources: ResourceSpec) -> bool:
    """Whether `auto` means true: in the pool, on a CPU, in fp32."""
    on_cpu = resources.executor == "pool" and not resources.gpus_per_worker
    plain = training.precision == "fp32" and invariance_refused(resources) is None
    return on_cpu and plain
