"""Whether what a journal holds is of the type that its field has.

A journal may be anybody's: a number where a list is wanted would otherwise be found by whatever
shows it, in the middle of a page.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any], bool]
"""Whether a value is of a type."""

_LARGEST = 1 << 63
"""Whole numbers beyond it are never written; arrays and databases could not hold them."""
_NUMBERS = frozenset((int, float, types.NoneType))
_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false",
    dict: "an object", list: "a list", tuple: "a list",
}  # fmt: skip


def _is_whole(value: Any) -> bool:
    return type(value) is int and -_LARGEST <= value < _LARGEST


def _is_number(value: Any) -> bool:
    # What is not finite is written as null.
    return type(value) in _NUMBERS and (type(value) is not int or _is_whole(value))


def _are_numbers(values: Iterable[Any]) -> bool:
    kinds = set(map(type, values))
    return kinds <= _NUMBERS and (int not in kinds or all(map(_is_number, values)))


def _is_object(value: Any) -> bool:
    # Asked first what is nearly always so: a tenth of the time of the other question.
    return type(value) is dict or isinstance(value, Mapping)


def check_of(hint: Any) -> Check:
    """What tells whether a value is of a type.

    Args:
        hint: `int`, `float`, `str`, `bool`, `Any`, None, a dataclass, or lists, tuples, objects and
            unions of such.

    Returns:
        The check. A `float` may be null, as NaN is written so; a whole number is one, too.

    Raises:
        TypeError: If nothing is known of the type.
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    simple: dict[Any, Check] = {
        int: _is_whole,
        float: _is_number,
        str: lambda value: type(value) is str,
        bool: lambda value: type(value) is bool,
        Any: lambda _: True,
        types.NoneType: lambda value: value is None,
        dict: _is_object,
    }
    if hint in simple:
        return simple[hint]
    if origin in {typing.Union, types.UnionType}:
        either = [check_of(one) for one in inside]
        return lambda value: any(check(value) for check in either)
    if origin in {list, tuple}:
        return _sequence_check(origin, inside)
    if origin is dict:
        return _object_check(inside[1])
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: isinstance(value, hint) and not wrong_fields(value)
    raise TypeError(f"nothing is known of the type {hint!r}")


def _object_check(hint: Any) -> Check:
    if hint is float:
        return lambda value: _is_object(value) and _are_numbers(value.values())
    check = check_of(hint)
    return lambda value: _is_object(value) and all(map(check, value.values()))


def _sequence_check(origin: Any, inside: tuple[Any, ...]) -> Check:
    kinds = (list, tuple) if origin is tuple else (list,)
    if origin is tuple and inside[-1] is not Ellipsis:
        each = [check_of(one) for one in inside]
        return lambda value: (
            isinstance(value, kinds)
            and len(value) == len(each)
            and all(check(one) for check, one in zip(each, value, strict=True))
        )
    if inside[0] is float:
        return lambda value: isinstance(value, kinds) and _are_numbers(value)
    check = check_of(inside[0])
    return lambda value: isinstance(value, kinds) and all(map(check, value))


@functools.cache
def _checks(kind: type[Any]) -> list[tuple[str, tuple[type[Any], ...], Check, Any]]:
    """Of each field its name, the types whose values need no check, the check, and the hint."""
    hints = typing.get_type_hints(kind)
    return [
        (one.name, _sure(hints[one.name]), check_of(hints[one.name]), hints[one.name])
        for one in fields(kind)
    ]


def _sure(hint: Any) -> tuple[type[Any], ...]:
    """Types of which every value is right, as most fields hold one of them."""
    if hint in {str, bool, types.NoneType}:
        return (hint,)
    if hint is float:
        return (float, types.NoneType)
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return tuple(one for part in typing.get_args(hint) for one in _sure(part))
    return ()


def _word(hint: Any) -> str:
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
    found = typing.get_origin(hint) or hint
    if typing.get_args(hint) and found in {list, tuple, dict}:
        inner = typing.get_args(hint)[1 if found is dict else 0]
        if inner in {int, float, str}:
            return f"{_WORDS[found]} of {'texts' if inner is str else 'numbers'}"
    return _WORDS.get(found, "an object")


def wrong_fields(value: Any) -> dict[str, str]:
    """The fields of a dataclass whose values are not of their types.

    Args:
        value: One, whose class names types that `check_of` knows.

    Returns:
        What each should be, in words.
    """
    held = value.__dict__
    return {
        name: _word(hint)
        for name, sure, check, hint in _checks(type(value))
        if type(one := held[name]) not in sure and not check(one)
    }
