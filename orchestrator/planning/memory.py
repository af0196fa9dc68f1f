"""The memory of one worker, estimated from the sizes of the base and of the methods."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.base.facts import OPTIMISER_BYTES, BaseFacts
from orchestrator.executors.cluster_fit import pool_members
from orchestrator.planning.method_sizes import MethodFacts
from orchestrator.planning.tokens import largest_value
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import default_batch_tokens
from orchestrator.system.byte_units import GIB

BYTES = {"fp32": 4, "bf16": 2}


LOGIT_ROWS = 1024
"""Places whose logits are held at a time."""


def memory_shortage(
    experiment: Experiment,
    worker_bytes: float | None,
    free: int | None,
    *,
    at_once: int,
    cpus: float,
    gpus: float,
) -> str | None:
    """What is to be said where the workers of a machine are estimated to need more than it has.

    Args:
        experiment: The experiment.
        worker_bytes: Of one worker, estimated; None where the base's sizes are not known.
        free: Bytes that are free on the machine; None where that is not known.
        at_once: How many trials run at a time.
        cpus: Of the machine.
        gpus: Of the machine. On these the memory of a worker is another one.

    Returns:
        The arithmetic and what helps; None where it suffices or is not known.
    """
    resources = experiment.resources
    workers = max(1, at_once) * resources.workers
    if resources.facts.packs:  # its members hold the base, its trials no process
        workers = pool_members(resources, cpus=cpus, gpus=gpus) * resources.workers
    if worker_bytes is None or free is None or resources.gpus_per_worker:
        return None
    if worker_bytes * workers <= free:
        return None
    return (
        f"Memory: {workers} workers at a time need about {worker_bytes * workers / GIB:.1f} GiB, "
        f"and {free / GIB:.1f} GiB are free. Lower `search.max_concurrent`, `training.batch_size`"
        " or `training.max_length`, or raise `resources.cpus_per_worker` so that fewer trials "
        "run at a time."
    )


def memory_parts(
    experiment: Experiment, base: BaseFacts, methods: Sequence[MethodFacts]
) -> dict[str, float]:
    """The memory of one worker, in bytes, by what it holds.

    Args:
        experiment: The experiment.
        base: The base model's sizes.
        methods: The methods' sizes; the largest count.

    Returns:
        An estimate; activations are those of the longest micro-batch.
    """
    training, resources = experiment.training, experiment.resources
    width = BYTES[training.precision]
    batch = int(largest_value(experiment, "training.batch_size", training.batch_size))
    micro = max(1, batch // (resources.workers * training.accumulation))
    length = training.max_length
    # Inputs of norms, projections and products, and attention's scores and their softmax in fp32.
    per_token = base.layers * (
        (10 * base.hidden + 4 * base.intermediate) * width + base.heads * length * (2 * width + 4)
    )
    context = max(length, experiment.data.probe_context)
    packed = resources.facts.packs
    batch_tokens = experiment.data.batch_tokens or default_batch_tokens(
        on_gpu=resources.gpus_per_worker > 0, packed=packed
    )
    slots = resources.slots if packed else 1
    # A pass of a pack takes the rows of several slots, as many as this bound allows.
    learning = (max(micro * length, batch_tokens) if packed else micro * length) * per_token
    scoring = batch_tokens * (
        (6 * base.hidden + 3 * base.intermediate) * width + base.heads * context * (2 * width + 4)
    )
    rows = min(LOGIT_ROWS, batch_tokens)
    return {
        "base weights": base.weight_bytes(width, experiment.model.quantization),
        f"{slots} adapters and optimisers" if packed else "adapter and optimiser": slots
        * max(
            (m.adapter.trained * OPTIMISER_BYTES + m.adapter.frozen * width for m in methods),
            default=0,
        ),
        "retention": slots * max((m.carried for m in methods), default=0),
        "activations": max(learning, scoring),
        "logits": rows * base.vocabulary * (4 * 2 + width),
        "process": resources.facts.process_bytes,
    }
