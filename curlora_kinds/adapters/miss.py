"""MiSS: one matrix that all slices of a layer share."""

from __future__ import annotations

from typing import Any

from curlora_kinds.adapters.counts import output_factor
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.rank_and_dropout import DROPOUT, RANK
from curlora_kinds.settings import Targets


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "r": values["r"],
        "miss_dropout": values["dropout"],
        "target_modules": values["target_modules"],
    }


KIND = AdapterKind(
    name="miss",
    summary="MiSS (Kang and Yin 2024, arXiv 2409.15371): one matrix (r, d_out) shared by all "
    "slices.",
    settings={"r": RANK, "target_modules": Targets(), "dropout": DROPOUT},
    made_by="peft:MissConfig",
    arguments=_arguments,
    count_trained=output_factor,
    conv1d=False,
)
