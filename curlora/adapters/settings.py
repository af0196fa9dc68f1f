"""Settings of adapters: the check of each, and the nearest known name for an unknown one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

Settings = Mapping[str, Any]


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")


def _check_optional_count(name: str, value: Any) -> None:
    if value is not None:
        _check_count(name, value)


def _check_factor(name: str, value: Any) -> None:
    if not _is_number(value) or value == 0:
        raise ValueError(f"`{name}` must be a finite number other than 0, got {value!r}.")


def _check_share(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1, got {value!r}.")


def _check_effective_rank(name: str, value: Any) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    share = isinstance(value, float) and 0 < value < 1
    if not (whole or share):
        raise ValueError(
            f"`{name}` must be a share above 0 and below 1, or a whole number of directions to "
            f"keep, got {value!r}."
        )


def _check_targets(name: str, value: Any) -> None:
    named = isinstance(value, list | tuple | set | frozenset)
    if value is None or (isinstance(value, str) and value):
        return
    if not named or not value or not all(isinstance(item, str) for item in value):
        raise ValueError(
            f"`{name}` must be a list of module names (by their ends) or 'all-linear', got "
            f"{value!r}."
        )


def _check_positive(name: str, value: Any) -> None:
    if not _is_number(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive, finite number, got {value!r}.")


def _check_damping(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value <= 1:
        raise ValueError(f"`{name}` must be above 0 and at most 1, got {value!r}.")


def _one_of(*known: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}.")

    return check


_CHECK_OF: dict[str, Callable[[str, Any], None]] = {
    "r": _check_count,
    "m": _check_optional_count,
    "u": _check_optional_count,
    "alpha": _check_factor,
    "dropout": _check_share,
    "effective_rank": _check_effective_rank,
    "norm": _one_of("none", "released", "bounded"),
    "merge": _one_of("none", "M1", "M2"),
    "init": _one_of("truncated", "released"),
    "merge_every": _check_count,
    "s": _check_positive,
    "edge": _check_positive,
    "share": _check_share,
    "decay": _check_damping,
    "target_modules": _check_targets,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def nearest(name: str, known: Any) -> str:
    """Name the nearest of some known names, if one is near, and all of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."


def secura_width(values: Settings) -> int:
    """Give the inner width of SECURA's core: by default in the released proportion, 200 to 150.

    Args:
        values: Its settings `r` and `m`.

    Returns:
        `m`, or 4/3 r rounded up where `m` is None.
    """
    return math.ceil(4 * values["r"] / 3) if values["m"] is None else values["m"]


SECURA_SETTINGS: Settings = {
    "r": 16,
    "m": None,
    "norm": "bounded",
    "s": 6.0,
    "merge": "none",
    "merge_every": 1,
    "edge": 1.2,
    "share": 0.9,
    "decay": 0.99,
    "init": "truncated",
    "target_modules": None,
}
"""SECURA's settings with their defaults: in the table, and to check its PEFT config by."""


def complete(kind: str, known: Settings, given: Settings) -> dict[str, Any]:
    """Check the settings of a kind of adapter and fill in the defaults.

    Args:
        kind: Its name, for messages.
        known: All of its settings, with their defaults.
        given: Some of them.

    Returns:
        A value for every name of `known`.

    Raises:
        ValueError: A name is unknown, or a value is outside its range.
    """
    for name in given:
        if name not in known:
            raise ValueError(f"Adapter {kind!r} has no setting {name!r}.{nearest(name, known)}")
    values = dict(known) | dict(given)
    for name, check in _CHECK_OF.items():
        if name in values:
            check(name, values[name])
    if values.get("m") is not None and values["m"] <= values["r"]:
        raise ValueError(
            f"`m` must be above `r` = {values['r']}, got {values['m']}: the core is widened. "
            "For a core of r x r, use 'curlora'."
        )
    if isinstance(values.get("target_modules"), tuple | set | frozenset):
        values["target_modules"] = sorted(values["target_modules"])
    return values
