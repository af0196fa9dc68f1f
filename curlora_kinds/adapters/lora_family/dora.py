"""DoRA: direction and magnitude apart."""

from __future__ import annotations

from typing import Any

from curlora_kinds.adapters.counts import Shapes, sides, two_factors
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.lora_family.settings import LORA_CONFIG, LORA_SETTINGS, lora_arguments


def _trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count LoRA's two factors and a magnitude for every output."""
    return two_factors(values, shapes) + sum(d_out for d_out, _ in sides(shapes))


KIND = AdapterKind(
    name="dora",
    summary="DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA on the direction, a magnitude per "
    "output.",
    settings=LORA_SETTINGS,
    made_by=LORA_CONFIG,
    arguments=lora_arguments(use_dora=True),
    count_trained=_trained,
    partitioned="reads each whole weight in every pass",
    packs_as="dora",
)
