"""Rank-stabilised LoRA."""

from __future__ import annotations

from curlora_kinds.adapters.counts import two_factors
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.lora_family.settings import LORA_CONFIG, LORA_SETTINGS, lora_arguments

KIND = AdapterKind(
    name="rslora",
    summary="rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): LoRA scaled by alpha / sqrt(r).",
    settings=LORA_SETTINGS,
    made_by=LORA_CONFIG,
    arguments=lora_arguments(use_rslora=True),
    count_trained=two_factors,
    linear_factors="lora",
    additive=True,
    quantised=None,
    packs_as="low_rank",
)
