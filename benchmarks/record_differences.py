"""Where two records of what the code computes differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

_OF_BITS = {"bits", "mlflow"}
"""Kept out of what another machine is held to: hashes of numbers, and what repeats the journal."""
_NOTHING = object()


def differences(old: Any, new: Any, *, tolerance: float = 0.0) -> list[str]:
    """Every leaf that differs, in words that name its path.

    Args:
        old: A record.
        new: Another.
        tolerance: Relative difference up to which two floats are the same; 0: the same bits.

    Returns:
        Sentences; empty where nothing differs.
    """
    return list(_differences(old, new, (), tolerance))


def _differences(old: Any, new: Any, path: tuple[str, ...], tolerance: float) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = [(key, old.get(key, _NOTHING), new.get(key, _NOTHING)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(i), *pair) for i, pair in enumerate(zip(old, new, strict=True))]
    else:
        if not _same(old, new, tolerance):
            yield f"{'/'.join(path)}: {_shown(old)} -> {_shown(new)}"
        return
    for key, one, other in pairs:
        yield from _differences(one, other, (*path, str(key)), tolerance)


def _same(old: Any, new: Any, tolerance: float) -> bool:
    if type(old) is not type(new):
        return False
    if isinstance(old, float) and not (math.isnan(old) and math.isnan(new)):
        # What is 0 on one machine is the rest of a sum on another.
        return old == new or abs(old - new) <= tolerance * max(abs(old), abs(new), 1e-3)
    return old == new or old is new or (isinstance(old, float) and math.isnan(old))


def _shown(value: Any) -> str:
    text = "nothing" if value is _NOTHING else repr(value)
    if isinstance(value, list | dict):
        text = f"{len(value)} entries {text}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def worth_keeping(record: Any) -> Any:
    """A record without what another machine cannot be held to, and without what it repeats.

    Args:
        record: A record.

    Returns:
        The same, smaller.
    """
    if isinstance(record, Mapping):
        return {k: worth_keeping(v) for k, v in record.items() if k not in _OF_BITS}
    if isinstance(record, list):
        return [worth_keeping(one) for one in record]
    return record
