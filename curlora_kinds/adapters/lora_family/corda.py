"""CorDA in the mode that keeps knowledge."""

from __future__ import annotations

from curlora_kinds.adapters.counts import two_factors
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.lora_family.settings import (
    LORA_SETTINGS,
    lora_arguments,
    positive_alpha,
)

KIND = AdapterKind(
    name="corda",
    summary="CorDA (Yang et al. 2024, arXiv 2406.05223), knowledge-preserving: LoRA that starts as "
    "the components which matter least to given text.",
    settings=LORA_SETTINGS,
    check=positive_alpha("corda"),
    made_by="curlora.peft_bridge:corda_config",
    arguments=lora_arguments(),
    count_trained=two_factors,
    count_frozen=two_factors,
    changes_base="init",
    linear_factors="lora",
    reads_weight=True,
    reads_text=True,
    quantised="moves a part of each weight into the adapter, and the remainder, quantised once "
    "more, would lose more than the adapter can learn",
    partitioned="moves a part of each whole weight into the adapter",
)
