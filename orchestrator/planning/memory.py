"""The memory of one worker, estimated from the sizes of the base and of the methods."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.base.facts import OPTIMISER_BYTES, BaseFacts
from orchestrator.planning.method_sizes import MethodFacts
from orchestrator.planning.tokens import largest_value
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import default_batch_tokens

BYTES = {"fp32": 4, "bf16": 2}


LOGIT_ROWS = 1024
"""Places whose logits are held at a time."""


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
