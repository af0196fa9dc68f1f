"""EWC-LoRA: `curlora.retention.ewc_weight`."""

from __future__ import annotations

from collections import Counter

from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.retentions.kind import RetentionKind, waits_for_a_second_task
from curlora_kinds.retentions.pairs import only_with
from curlora_kinds.retentions.penalty_settings import DECAY, MAX_EXAMPLES
from curlora_kinds.retentions.state import WORD_BYTES, Part, Setup, State, earlier_adapters
from curlora_kinds.settings import Number

EWC_LORA_STRENGTH = 1e7 / 128
"""EWC-LoRA's lambda for a Fisher of single examples, 78,125.

The released code (methods/ewclora.py of yaoyz96/low-rank-cl) has 1e7, for a Fisher that squares
the mean gradient of a batch of 128: E[(mean of 128 g)^2] is E[g^2] / 128 where the gradients of
examples are independent with mean zero. Ours squares each example's, so the same penalty needs a
lambda that is 128 times smaller.
"""


def _adds_a_product(kind: AdapterKind) -> bool:
    """Say whether an adapter adds a product of trained matrices to the weight."""
    return kind.additive and kind.linear_factors is not None


def _state(setup: Setup) -> State:
    count = len(setup.layers)
    parts = [earlier_adapters(setup), Part(f"{count} scales", count, WORD_BYTES)]
    for (d_out, d_in), layers in Counter(setup.layers.values()).items():
        text, numbers = f"{d_out} x {d_in}", d_out * d_in
        if setup.adapter.linear_factors == "core":
            text = f"({text} + {setup.r} x {d_out + d_in})"
            numbers += setup.r * (d_out + d_in)
        parts.append(Part(f"{layers} layers x {text}", layers * numbers))
    return State(tuple(parts), scalars=3)


KIND = RetentionKind(
    name="ewc_weight",
    summary="EWC-LoRA: each task's own update is held where the weights mattered, by a diagonal "
    "Fisher as large as the weights (arXiv 2602.17559, 2026).",
    settings={
        "decay": DECAY,
        "max_examples": MAX_EXAMPLES,
        "strength": Number(
            EWC_LORA_STRENGTH,
            "Lambda; by default the published one, 1e7 over batches of 128, for the Fisher of "
            "single examples: see `EWC_LORA_STRENGTH`.",
            least=0,
        ),
    },
    made_by="curlora.retention.ewc_weight:EwcWeight",
    why_not=only_with(_adds_a_product, need="an update that is a product added to the weight"),
    state=_state,
    needs_whole_adapter=True,
    first_task=waits_for_a_second_task,
)
