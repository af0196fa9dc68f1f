"""MiCA: LoRA on the subspace of the least singular values."""

from __future__ import annotations

from curlora_kinds.adapters.counts import input_factor, output_factor
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.lora_family.settings import LORA_CONFIG, LORA_SETTINGS, lora_arguments

KIND = AdapterKind(
    name="mica",
    summary="MiCA (arXiv 2604.01694): LoRA with B frozen to W's r least left singular vectors.",
    settings=LORA_SETTINGS,
    made_by=LORA_CONFIG,
    arguments=lora_arguments(init_lora_weights="mica"),
    count_trained=input_factor,
    count_frozen=output_factor,
    reads_weight=True,
)
