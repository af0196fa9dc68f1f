"""Budgets of a sweep as people write them: `30min`, `8h`, `20 core-hours`, `4 gpu-hours`."""

from __future__ import annotations

import re
from typing import Literal

Device = Literal["core", "gpu"]

_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0,
            "h": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_COMPUTE = re.compile(r"(\d+(?:\.\d+)?)\s*(core|cpu|gpu)[-\s]?([A-Za-z]+)")


def duration(text: str) -> float:
    """The seconds of a duration.

    Args:
        text: Numbers with units, such as "90s", "30min", "1h30min" or "1.5 hours".

    Returns:
        Seconds, above 0.

    Raises:
        ValueError: If it is not one.
    """
    parts = list(_PART.finditer(text.strip()))
    whole = "".join(part.group() for part in parts)
    seconds = sum(float(part[1]) * _unit(part[2], text) for part in parts)
    written = bool(parts) and whole == text.strip()
    if written and not seconds > 0:
        raise ValueError(
            f"a duration is above zero, such as 90s, 30min, 8h or 1h30min; got {text!r}"
        )
    if not written:
        raise ValueError(
            f"a duration is a number with a unit, such as 90s, 30min, 8h or 1h30min; got {text!r}"
        )
    return seconds


def compute(text: str) -> tuple[Device, float]:
    """The device seconds of an amount of compute.

    Args:
        text: A number, a device and a unit, such as "20 core-hours", "4 gpu-hours" or
            "90 core-minutes".

    Returns:
        What is counted, and seconds of it, above 0.

    Raises:
        ValueError: If it is not one.
    """
    found = _COMPUTE.fullmatch(text.strip())
    seconds = float(found[1]) * _unit(found[3], text) if found else 0.0
    if found is None or not seconds > 0:
        raise ValueError(
            f"an amount of compute is a number of core-hours or gpu-hours, such as `20 core-hours` "
            f"or `4 gpu-hours`; got {text!r}"
        )
    return ("gpu" if found[2] == "gpu" else "core"), seconds


def _unit(word: str, text: str) -> float:
    name = word.lower()
    name = name[:-1] if name.endswith("s") and len(name) > 1 else name
    if name not in _SECONDS:
        raise ValueError(f"the unit {word!r} of {text!r} is none of s, min, h and d")
    return _SECONDS[name]
