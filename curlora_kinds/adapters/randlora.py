"""RandLoRA: full rank from random bases that are scaled."""

from __future__ import annotations

import math
from typing import Any

from curlora_kinds.adapters.counts import Shapes, sides
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.rank_and_dropout import DROPOUT
from curlora_kinds.settings import Number, Targets, Whole


def _trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count the diagonal scales of each layer's random bases."""
    r = values["r"]
    return sum(
        math.ceil(min(d_out, d_in) / r) * (r + min(d_out, d_in)) for d_out, d_in in sides(shapes)
    )


def _frozen(values: dict[str, Any], shapes: Shapes) -> int:
    """Count the pair of random bases that all layers share, as wide as the widest."""
    if not shapes:
        return 0
    widest = (max(d_out for d_out, _ in sides(shapes)), max(d_in for _, d_in in sides(shapes)))
    shorter, longer = min(widest), max(widest)
    return values["r"] * (shorter + longer * math.ceil(shorter / values["r"]))


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "r": values["r"],
        "randlora_alpha": values["alpha"],
        "randlora_dropout": values["dropout"],
        "target_modules": values["target_modules"],
    }


KIND = AdapterKind(
    name="randlora",
    summary="RandLoRA (Albert et al. 2025, arXiv 2502.00987): full rank from scaled random bases.",
    settings={
        "r": Whole(32, "Rank of each of the random bases.", least=1),
        "target_modules": Targets(),
        "dropout": DROPOUT,
        "alpha": Number(640.0, "The update is scaled by alpha / r.", nonzero=True),
    },
    made_by="peft:RandLoraConfig",
    arguments=_arguments,
    count_trained=_trained,
    count_frozen=_frozen,
)
