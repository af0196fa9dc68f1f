"""OSF: the lesser singular components of each weight are trained, the others kept."""

from __future__ import annotations

from typing import Any

from curlora_kinds.adapters.counts import Shapes, sides
from curlora_kinds.adapters.kind import AdapterKind
from curlora_kinds.settings import ShareOrCount, Targets


def _kept(values: dict[str, Any], d_out: int, d_in: int) -> int:
    kept, smaller = values["effective_rank"], min(d_out, d_in)
    return int(smaller * kept) if isinstance(kept, float) else min(kept, smaller)


def _trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count the singular vectors and values that are not kept as they are."""
    return sum(
        (min(d_out, d_in) - _kept(values, d_out, d_in)) * (d_out + d_in + 1)
        for d_out, d_in in sides(shapes)
    )


def _frozen(values: dict[str, Any], shapes: Shapes) -> int:
    """Count the starting factors, and the kept vectors of a matrix that is not square."""
    # The starting factors, and of a matrix that is not square the kept vectors of its longer side.
    kept_vectors = sum(
        0 if d_out == d_in else _kept(values, d_out, d_in) * max(d_out, d_in)
        for d_out, d_in in sides(shapes)
    )
    return _trained(values, shapes) + kept_vectors


def _misfit(values: dict[str, Any], smaller: int) -> str | None:
    kept = values["effective_rank"]
    if isinstance(kept, float) or kept < smaller:
        return None
    return (
        f"`effective_rank` must be below min(d_in, d_out) = {smaller}, got {kept}: nothing would "
        "be left to train"
    )


KIND = AdapterKind(
    name="osf",
    summary="OSF (Nayak et al. 2025, arXiv 2504.07097): trains the lesser singular components of "
    "W, with gradients orthogonal to the others.",
    settings={
        "effective_rank": ShareOrCount(
            0.5, "Singular directions that stay frozen: a share of them below 1, or their number."
        ),
        "target_modules": Targets(),
    },
    made_by="peft:OSFConfig",
    count_trained=_trained,
    count_frozen=_frozen,
    conv1d=False,
    reads_weight=True,
    saved_whole=True,
    partitioned="decomposes each whole weight",
    misfit=_misfit,
)
