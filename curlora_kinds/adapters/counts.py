"""How many numbers some matrices hold, by the shapes of the adapted layers.

Shapes are those of the targeted linear layers, (d_out, d_in) by module name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def sides(shapes: Shapes) -> list[tuple[int, int]]:
    """Give (d_out, d_in) of every layer."""
    return [(shape[0], shape[1]) for shape in shapes.values()]


def nothing(_: dict[str, Any], __: Shapes) -> int:
    """Give 0: nothing is trained, or kept."""
    return 0


def two_factors(values: dict[str, Any], shapes: Shapes) -> int:
    """Count two factors, (d_out, r) and (r, d_in), a layer."""
    return sum(values["r"] * (d_out + d_in) for d_out, d_in in sides(shapes))


def input_factor(values: dict[str, Any], shapes: Shapes) -> int:
    """Count a factor (r, d_in) a layer."""
    return sum(values["r"] * d_in for _, d_in in sides(shapes))


def output_factor(values: dict[str, Any], shapes: Shapes) -> int:
    """Count a factor (d_out, r) a layer."""
    return sum(values["r"] * d_out for d_out, _ in sides(shapes))


def core(values: dict[str, Any], shapes: Shapes) -> int:
    """Count a core (r, r) a layer."""
    return values["r"] ** 2 * len(shapes)
