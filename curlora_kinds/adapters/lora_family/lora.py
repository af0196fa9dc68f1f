"""LoRA."""

from __future__ import annotations

from curlora_kinds.adapters.counts import two_factors
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.lora_family.settings import LORA_CONFIG, LORA_SETTINGS, lora_arguments

KIND = AdapterKind(
    name="lora",
    summary="LoRA (Hu et al. 2021, arXiv 2106.09685): W + alpha / r B A.",
    settings=LORA_SETTINGS,
    made_by=LORA_CONFIG,
    arguments=lora_arguments(),
    count_trained=two_factors,
    linear_factors="lora",
    additive=True,
    quantised=None,
    packs_as="low_rank",
)
