"""PiSSA: LoRA on the leading part of each weight."""

from __future__ import annotations

from curlora_kinds.adapters.counts import two_factors
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.lora_family.settings import (
    LORA_CONFIG,
    LORA_SETTINGS,
    lora_arguments,
    positive_alpha,
)

KIND = AdapterKind(
    name="pissa",
    summary="PiSSA (Meng et al. 2024, arXiv 2404.02948): LoRA that starts as W's top r components.",
    settings=LORA_SETTINGS,
    check=positive_alpha("pissa"),
    made_by=LORA_CONFIG,
    arguments=lora_arguments(init_lora_weights="pissa"),
    count_trained=two_factors,
    count_frozen=two_factors,
    changes_base="init",
    linear_factors="lora",
    reads_weight=True,
    quantised="moves the leading part of each weight into the adapter, and the remainder, "
    "quantised once more, would lose more than the adapter can learn",
)
