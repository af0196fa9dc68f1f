"""SECURA: `curlora.adapters.secura`."""

from __future__ import annotations

import math
from typing import Any

from curlora_kinds.adapters.counts import Shapes, core, two_factors
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.adapters.rank_and_dropout import RANK
from curlora_kinds.settings import Choice, Number, Targets, Whole


def secura_width(values: dict[str, Any]) -> int:
    """Give the inner width of SECURA's core: by default in the released proportion, 200 to 150.

    Args:
        values: Its settings `r` and `m`.

    Returns:
        `m`, or 4/3 r rounded up where `m` is None.
    """
    return math.ceil(4 * values["r"] / 3) if values["m"] is None else values["m"]


def _trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count `A` (r, m) and `B` (m, r) a layer."""
    return 2 * values["r"] * secura_width(values) * len(shapes)


def _frozen(values: dict[str, Any], shapes: Shapes) -> int:
    """Count `C`, `R`, what was merged (r, r), and the sum of `B` that the rule `M2` keeps."""
    merged_sum = values["r"] * secura_width(values) if values["merge"] == "M2" else 0
    return two_factors(values, shapes) + core(values, shapes) + merged_sum * len(shapes)


def _widened(values: dict[str, Any]) -> None:
    if values["m"] is not None and values["m"] <= values["r"]:
        raise ValueError(
            f"`m` must be above `r` = {values['r']}, got {values['m']}: the core is widened. "
            "For a core of r x r, use 'curlora'."
        )


KIND = AdapterKind(
    name="secura",
    summary="SECURA (Zhang et al. 2025, arXiv 2502.18168): W + C A B R with the change held back.",
    settings={
        "r": RANK,
        "target_modules": Targets(),
        "m": Whole(
            None,
            "Inner width of the core, above r; None: a third more than r, as released.",
            least=2,
            optional=True,
        ),
        "norm": Choice(
            "bounded",
            "S-MagNorm: as in the released code, or in the form that is continuous at zero.",
            choices=("none", "released", "bounded"),
        ),
        "s": Number(6.0, "Slope of S-MagNorm.", above=0),
        "merge": Choice(
            "none",
            "When the trained core is folded into what is frozen.",
            choices=("none", "M1", "M2"),
        ),
        "merge_every": Whole(1, "Optimiser steps between two merges.", least=1),
        "edge": Number(1.2, "A restraint at or below it counts as a large change.", above=0),
        "share": Number(
            0.9, "Share of large changes above which outputs are decayed.", least=0, most=1
        ),
        "decay": Number(0.99, "What the outputs are then multiplied with.", above=0, most=1),
        "init": Choice(
            "truncated",
            "How the core's first factor starts: at the leading singular vectors, or as released.",
            choices=("truncated", "released"),
        ),
    },
    check=_widened,
    made_by="curlora.adapters.secura_config:SecuraConfig",
    count_trained=_trained,
    count_frozen=_frozen,
    quantised="compares its change with each weight as a number, which has not been built for a "
    "base of whole numbers",
    partitioned="compares its change with each whole weight",
)
