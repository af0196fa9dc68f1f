"""Values as SQLite holds them, and how such a value is compared as text.

Numbers and texts are SQLite's own; what SQLite has no type for (true and false, lists) is a blob
of JSON, so that no text is mistaken for it.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

_LARGEST = 2**63 - 1
_SIGNS: Mapping[str, Callable[[str, str], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

Held = int | float | str | bytes | None


def held(value: Any) -> Held:
    """A value of JSON as a column holds it; None where it is missing or no number.

    Args:
        value: Any value of a JSON document.

    Returns:
        What `given` makes the value of again.
    """
    match value:
        case None:
            return None
        case bool():
            return json.dumps(value).encode()
        case float():
            return value if math.isfinite(value) else None
        case int():
            return value if abs(value) <= _LARGEST else json.dumps(value).encode()
        case str():
            # Half of a pair of surrogates has no UTF-8.
            return value.encode("utf-8", "backslashreplace").decode()
        case _:
            return json.dumps(value, default=str).encode()


def given(found: Held) -> Any:
    """The value that a column holds, see `held`."""
    return json.loads(found) if isinstance(found, bytes) else found


def as_text(found: Held) -> str | None:
    """A column's value as text: numbers and lists as Python writes them, true and false small."""
    value = given(found)
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def compared(found: Held, sign: str, text: str) -> bool:
    """Whether a column's value, as text, compares so with a text.

    Args:
        found: The column's value.
        sign: One of the signs of a filter.
        text: The text.

    Returns:
        False for what is missing.
    """
    mine = as_text(found)
    if mine is None:
        return False
    truth = isinstance(found, bytes) and found in {b"true", b"false"}
    return _SIGNS[sign](mine, text.lower() if truth else text)
