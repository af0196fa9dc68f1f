"""How numbers, intervals, times and settings are written; "-" is "not measured"."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any


def show(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """A number with three decimals, "-" when it was not measured."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def show_interval(interval: Sequence[float | None] | None) -> str:
    """An interval in brackets, "-" when it was not measured."""
    if not interval or any(bound is None for bound in interval):
        return "-"
    return f"[{show(interval[0], signed=True)}, {show(interval[1], signed=True)}]"


def show_duration(seconds: float | None) -> str:
    """Seconds as people say them: 45 s, 3 min 20 s, 2 h 05 min, from two days on 68 d 10 h."""
    if seconds is None or math.isnan(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def moment(seconds: float | None) -> str:
    """A time since the epoch as a date with minutes, in UTC."""
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def show_setting(path: str, value: Any, *, exact: bool = False) -> str:
    """A setting as it is printed.

    Args:
        path: Its dotted path.
        value: Its value.
        exact: Whether what is printed must give the very value when it is copied into a file.
            Otherwise, in tables of many trials, learning rates have six digits and other numbers
            three decimals.

    Returns:
        Text; "-" for None.
    """
    if value is None:
        return "-"
    if path.endswith("learning_rate"):
        return _scientific(float(value), 16 if exact else 5)
    if isinstance(value, float) and not exact:
        return show(value)
    return str(value)


def _scientific(value: float, decimals: int) -> str:
    """A number with an exponent and as few decimals as tell it from others, at least one."""
    # YAML reads a number with an exponent as text, unless it has a point and the exponent a sign.
    return next(
        text
        for text in (f"{value:.{digits}e}" for digits in range(1, decimals + 1))
        if float(text) == value or text == f"{value:.{decimals}e}"
    )


def count(number: int, noun: str) -> str:
    """A number and its noun: 1 trial, 2 trials."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
