"""TinyLoRA: a small core on the leading singular vectors of each weight."""

from __future__ import annotations

from typing import Any

from curlora_kinds.adapters.counts import Shapes, core, two_factors
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.rank_and_dropout import DROPOUT, RANK
from curlora_kinds.settings import Targets, Whole


def _spanning(values: dict[str, Any]) -> int:
    """Give how many fixed matrices span the core: `u`, by default r^2."""
    return values["r"] ** 2 if values["u"] is None else values["u"]


def _trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count u coefficients a layer."""
    return _spanning(values) * len(shapes)


def _frozen(values: dict[str, Any], shapes: Shapes) -> int:
    """Count two factors and u fixed matrices (r, r) a layer."""
    return two_factors(values, shapes) + _spanning(values) * core(values, shapes)


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "r": values["r"],
        "u": _spanning(values),
        "tinylora_dropout": values["dropout"],
        "target_modules": values["target_modules"],
    }


KIND = AdapterKind(
    name="tinylora",
    summary="TinyLoRA (arXiv 2602.04118): a core of r x r between W's top r singular vectors, "
    "spanned by u = r^2 fixed random matrices (LoRA-XS, arXiv 2405.17604, in another basis).",
    settings={
        "r": RANK,
        "target_modules": Targets(),
        "dropout": DROPOUT,
        "u": Whole(
            None,
            "Trained numbers a layer; None: r squared, a core of full freedom.",
            least=1,
            optional=True,
        ),
    },
    made_by="peft:TinyLoraConfig",
    arguments=_arguments,
    count_trained=_trained,
    count_frozen=_frozen,
    reads_weight=True,
    partitioned="decomposes each whole weight",
)
