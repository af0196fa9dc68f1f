"""How many numbers each kind of adapter trains and keeps, by the shapes of the adapted layers."""

from __future__ import annotations

import math
from typing import Any

from curlora.adapters.kind import Shapes
from curlora.adapters.settings import secura_width


def _sides(shapes: Shapes) -> list[tuple[int, int]]:
    return [(shape[0], shape[1]) for shape in shapes.values()]


def nothing(_: dict[str, Any], __: Shapes) -> int:
    """Give 0: nothing is trained, or kept."""
    return 0


def two_factors(values: dict[str, Any], shapes: Shapes) -> int:
    """Count two factors, (d_out, r) and (r, d_in), a layer."""
    return sum(values["r"] * (d_out + d_in) for d_out, d_in in _sides(shapes))


def input_factor(values: dict[str, Any], shapes: Shapes) -> int:
    """Count a factor (r, d_in) a layer."""
    return sum(values["r"] * d_in for _, d_in in _sides(shapes))


def output_factor(values: dict[str, Any], shapes: Shapes) -> int:
    """Count a factor (d_out, r) a layer."""
    return sum(values["r"] * d_out for d_out, _ in _sides(shapes))


def core(values: dict[str, Any], shapes: Shapes) -> int:
    """Count a core (r, r) a layer."""
    return values["r"] ** 2 * len(shapes)


def dora_trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count LoRA's two factors and a magnitude for every output."""
    return two_factors(values, shapes) + sum(d_out for d_out, _ in _sides(shapes))


def secura_trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count `A` (r, m) and `B` (m, r) a layer."""
    return 2 * values["r"] * secura_width(values) * len(shapes)


def secura_frozen(values: dict[str, Any], shapes: Shapes) -> int:
    """Count `C`, `R`, what was merged (r, r), and the sum of `B` that the rule `M2` keeps."""
    merged_sum = values["r"] * secura_width(values) if values["merge"] == "M2" else 0
    return two_factors(values, shapes) + core(values, shapes) + merged_sum * len(shapes)


def _osf_kept(values: dict[str, Any], d_out: int, d_in: int) -> int:
    kept, smaller = values["effective_rank"], min(d_out, d_in)
    return int(smaller * kept) if isinstance(kept, float) else min(kept, smaller)


def osf_trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count the singular vectors and values that are not kept as they are."""
    return sum(
        (min(d_out, d_in) - _osf_kept(values, d_out, d_in)) * (d_out + d_in + 1)
        for d_out, d_in in _sides(shapes)
    )


def osf_frozen(values: dict[str, Any], shapes: Shapes) -> int:
    """Count the starting factors, and the kept vectors of a matrix that is not square."""
    # The starting factors, and of a matrix that is not square the kept vectors of its longer side.
    kept_vectors = sum(
        0 if d_out == d_in else _osf_kept(values, d_out, d_in) * max(d_out, d_in)
        for d_out, d_in in _sides(shapes)
    )
    return osf_trained(values, shapes) + kept_vectors


def tinylora_u(values: dict[str, Any]) -> int:
    """Give how many fixed matrices span the core: `u`, by default r^2."""
    return values["r"] ** 2 if values["u"] is None else values["u"]


def tinylora_trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count u coefficients a layer."""
    return tinylora_u(values) * len(shapes)


def tinylora_frozen(values: dict[str, Any], shapes: Shapes) -> int:
    """Count two factors and u fixed matrices (r, r) a layer."""
    return two_factors(values, shapes) + tinylora_u(values) * core(values, shapes)


def randlora_trained(values: dict[str, Any], shapes: Shapes) -> int:
    """Count the diagonal scales of each layer's random bases."""
    r = values["r"]
    return sum(
        math.ceil(min(d_out, d_in) / r) * (r + min(d_out, d_in)) for d_out, d_in in _sides(shapes)
    )


def randlora_frozen(values: dict[str, Any], shapes: Shapes) -> int:
    """Count the pair of random bases that all layers share."""
    # One pair of bases for all layers, as wide as the widest.
    if not shapes:
        return 0
    sides = _sides(shapes)
    widest = (max(d_out for d_out, _ in sides), max(d_in for _, d_in in sides))
    shorter, longer = min(widest), max(widest)
    return values["r"] * (shorter + longer * math.ceil(shorter / values["r"]))


def every_parameter(_: dict[str, Any], shapes: Shapes) -> int:
    """Count every parameter of the base."""
    return sum(math.prod(shape) for shape in shapes.values())
