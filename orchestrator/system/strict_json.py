"""JSON of other people's files, read so that nothing in it is lost or guessed.

A key that is written twice in one object, half an emoji and a number of thousands of digits are
errors that name their line; `NaN`, which is no JSON and which many programs write where a value is
missing, is null.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from orchestrator.system.wording import cut

ErrorType = TypeVar("ErrorType", bound=ValueError)

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]')


class JsonError(ValueError):
    """A text that is not JSON, or is JSON that would lose something; the message says what."""

    def __init__(self, problem: str, line: int) -> None:
        """Name the problem.

        Args:
            problem: What is wrong, without a full stop.
            line: The line of the text, counted from 1.
        """
        super().__init__(problem)
        self.line = line


class _RepeatedKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RepeatedKeyError
    return found


_CONSTANTS = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_CONSTANTS.__getitem__)


def parse(text: str) -> Any:
    """The value that a JSON text stands for.

    Args:
        text: The text, without a byte-order mark.

    Returns:
        Dictionaries, lists, texts, numbers (whole, or floats that may be infinite), booleans, None.

    Raises:
        JsonError: If it is not JSON, an object has a key twice, or a text holds half of a pair of
            surrogates, which no encoding can write.
    """
    try:
        value = _DECODER.decode(text)
        escape = _SURROGATE.search(text)
        where = None if escape is None else half_character(value)
    except _RepeatedKeyError:
        raise JsonError(*_repeated(text)) from None
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON ({error})", error.lineno) from None
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise JsonError(f"not JSON that can be read ({error})", 1) from None
    if where is not None and escape is not None:
        raise JsonError(
            f"`{where}` holds half of a character (one of two surrogates), as when a text is cut "
            "within an emoji; remove it or write \\ufffd in its place",
            text.count("\n", 0, escape.start()) + 1,
        )
    return value


MOST_DEEP = 100
"""Brackets within each other; whatever goes through a document counts on far fewer than Python
could follow."""


def plain(text: str | bytes) -> Any:
    """The value of JSON that a program has written, or anybody in its name.

    Args:
        text: The JSON.

    Returns:
        Its value, as `json.loads` gives it.

    Raises:
        ValueError: Whatever is wrong with it, brackets within brackets without end included.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
    opening = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(map(text.count, opening)) > MOST_DEEP and _is_deep(value):  # pyright: ignore[reportArgumentType]
        raise ValueError("brackets are nested too deeply")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_DEEP):
        inside = [v.values() if isinstance(v, dict) else v for v in level]
        level = [part for each in inside for part in each if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def read_object(path: Path, error_type: type[ErrorType], cure: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        path: The file.
        error_type: What to raise.
        cure: A sentence for the end of the message.

    Returns:
        The object.

    Raises:
        error_type: If the file is missing, no JSON, or holds something else than an object.
    """
    try:
        value = parse(path.read_text(encoding="utf-8-sig"))
    except JsonError as error:
        raise error_type(f"{path}: line {error.line}: {error}. {cure}") from None
    except OSError as error:
        raise error_type(f"{path}: cannot be read ({error.strerror or error}). {cure}") from None
    except UnicodeDecodeError as error:
        raise error_type(f"{path}: not UTF-8 (byte {error.start}). {cure}") from None
    if not isinstance(value, dict):
        raise error_type(f"{path}: should hold a JSON object, got {cut(repr(value))}. {cure}")
    return value


def half_character(value: object, place: str = "") -> str | None:
    """Where a value holds half of a pair of surrogates.

    Args:
        value: A text, or a document of dictionaries and lists.
        place: Where the value itself stands.

    Returns:
        The dotted place of the first, None where there is none.
    """
    if isinstance(value, str):
        return (place or "the text") if any("\ud800" <= c <= "\udfff" for c in value) else None
    parts: Iterator[tuple[object, object]] = iter(())
    if isinstance(value, Mapping):
        parts = iter([*((key, key) for key in value), *value.items()])
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        parts = iter(enumerate(value))
    for key, part in parts:
        shown = str(key).encode("utf-8", "backslashreplace").decode()
        found = half_character(part, f"{place}.{shown}" if place else shown)
        if found is not None:
            return found
    return None


def _repeated(text: str) -> tuple[str, int]:
    """What is wrong with the first key that stands in one object twice, and its second line."""
    open_objects: list[dict[str, int] | None] = []
    last = ""
    start = 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in "{[":
            open_objects.append({} if mark == "{" else None)
        elif mark in "}]":
            open_objects.pop()
        elif mark == ":":
            keys = open_objects[-1]
            line = text.count("\n", 0, start) + 1
            if keys is not None and keys.setdefault(last, start) != start:
                first = text.count("\n", 0, keys[last]) + 1
                also = f", first in line {first}" if first != line else ""
                problem = (
                    f"the key {cut(last)!r} stands in one object twice{also}; the earlier value "
                    "would be lost. Keep one of them"
                )
                return problem, line
        if mark.startswith('"'):
            last, start = json.loads(mark), token.start()
    return "a key stands in one object twice", 1


def fingerprint(document: Any) -> str:
    """A short sha256 of any JSON-like document, independent of key order."""
    text = json.dumps(document, sort_keys=True, default=str, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_number(value: object) -> bool:
    """Whether a value is a finite number (booleans are not)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def without_nan(value: Any) -> Any:
    """The same document with every NaN and infinity replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): without_nan(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in cast("list[Any]", value)]
    return value
