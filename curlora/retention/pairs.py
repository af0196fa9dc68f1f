"""Why a retention does not go with an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from curlora.adapters.kind import AdapterKind
from curlora.adapters.table import ADAPTERS

LARGEST_FULL_RANK = 32
"""Beyond it the full curvature of one `U` has over a million entries, r^4."""


def goes_with_all(adapter_kind: str, settings: Mapping[str, Any]) -> None:  # noqa: ARG001
    """Give no reason: the retention goes with every adapter."""
    return


def only_with(
    fits: Callable[[AdapterKind], bool], *, need: str
) -> Callable[[str, Mapping[str, Any]], str | None]:
    """Make the answer of a retention that goes only with the adapters that fit."""

    def why_not(adapter_kind: str, settings: Mapping[str, Any]) -> str | None:  # noqa: ARG001
        fitting = [name for name, kind in ADAPTERS.items() if fits(kind)]
        if adapter_kind in fitting:
            return None
        return f"It needs {need}, and {adapter_kind!r} has none. Adapters: {', '.join(fitting)}."

    return why_not


def _has_matrices(kind: AdapterKind) -> bool:
    return kind.linear_factors is not None


def _has_two_factors(kind: AdapterKind) -> bool:
    return kind.linear_factors == "lora"


def adds_a_product(kind: AdapterKind) -> bool:
    """Say whether an adapter adds a product of trained matrices to the weight."""
    return kind.additive and kind.linear_factors is not None


def adds_two_factors(kind: AdapterKind) -> bool:
    """Say whether an adapter adds LoRA's two factors to the weight."""
    return kind.additive and kind.linear_factors == "lora"


def laplace_why_not(adapter_kind: str, settings: Mapping[str, Any]) -> str | None:
    """Give the reason why a curvature of `laplace` does not go with an adapter, if there is one."""
    curvature, rank = settings["curvature"], settings["r"]
    if curvature == "diag":
        return None
    if curvature == "full":
        if adapter_kind != "curlora":
            return (
                "Curvature `full` is kept for CURLoRA's small `U` only. Use `curlora`, or "
                "curvature `diag`."
            )
        if rank is not None and rank > LARGEST_FULL_RANK:
            return (
                f"Curvature `full` has r^4 entries a layer, and `r` is {rank}. Set `r` to at most "
                f"{LARGEST_FULL_RANK}, or use curvature `kfac`."
            )
        return None
    needed = {
        "kfac": only_with(_has_matrices, need="trained matrices that act on what they are given"),
        "tri_kfac": only_with(_has_two_factors, need="LoRA's two factors, which it couples"),
    }[curvature]
    reason = needed(adapter_kind, settings)
    return reason and f"Curvature `{curvature}`: {reason} Or use curvature `diag`."
