"""A YAML file as a document; equal keys and half characters are refused, and 3e-4 is a number."""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml


def read_yaml(path: Path, error_type: type[ValueError]) -> object:
    """The document of a YAML file.

    Args:
        path: The file.
        error_type: What to raise when it cannot be read.

    Returns:
        The parsed document.

    Raises:
        error_type: If the file is missing, is not UTF-8, is not YAML, has a key twice in one
            mapping, or half of a character in a text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error_type(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise error_type(f"{path}: cannot be read ({error}).") from None
    return parse_yaml(text, str(path), error_type)


def parse_yaml(text: str, where: str, error_type: type[ValueError]) -> object:
    """The document of a YAML text.

    Args:
        text: The text.
        where: What messages begin with.
        error_type: What to raise when it cannot be read.

    Returns:
        The parsed document.

    Raises:
        error_type: As of `read_yaml`.
    """
    import yaml

    try:
        # A SafeLoader, which makes plain values only.
        return yaml.load(text, Loader=_strict_loader())
    except (_RepeatedKeyError, _HalfCharacterError, _TooManyKeysError) as error:
        raise error_type(f"{where}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A date of month 13 is a ValueError, and brackets may be nested without end.
        raise error_type(f"{where}: not valid YAML ({' '.join(str(error).split())}).") from None


_MOST_MERGED = 16
"""Mappings that one `<<` may name."""
_MOST_KEYS = 10_000
"""Keys of a mapping with all that was merged into it: a few lines could ask for billions."""


class _TooManyKeysError(ValueError):
    """Mappings are merged into each other without bound."""


class _RepeatedKeyError(ValueError):
    """A key stands twice in one mapping."""


class _HalfCharacterError(ValueError):
    """A text holds one of two surrogates, which no encoding can write."""


_SURROGATES = re.compile("[\ud800-\udfff]")


def _whole_characters(text: str, line: int) -> str:
    """A text with the pairs of surrogates of JSON's escapes as the characters they stand for."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _HalfCharacterError(
            f"line {line}: a text holds half of a character (one of two surrogates such as "
            "\\ud83d). Write the character itself, or both halves."
        ) from None


def _check_merges(node: Any) -> None:
    for key_node, value in node.value:
        merges = key_node.tag == "tag:yaml.org,2002:merge" and value.id == "sequence"
        if merges and len(value.value) > _MOST_MERGED:
            raise _TooManyKeysError(
                f"line {key_node.start_mark.line + 1}: `<<` merges {len(value.value)} mappings, "
                f"and at most {_MOST_MERGED} are allowed."
            )


def _check_size(node: Any) -> None:
    if len(node.value) > _MOST_KEYS:
        raise _TooManyKeysError(
            f"line {node.start_mark.line + 1}: a mapping has {len(node.value):,} keys with all "
            f"that is merged into it, and at most {_MOST_KEYS:,} are allowed."
        )


@functools.cache
def _strict_loader() -> type[yaml.SafeLoader]:
    """PyYAML's safe loader, refusing equal keys (it would keep the last) and half characters."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            lines: dict[Any, int] = {}
            for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key: Any = self.construct_object(key_node, deep=True)
                if not isinstance(key, Hashable):
                    continue  # refused below, with its place
                line = key_node.start_mark.line + 1
                if key in lines:
                    raise _RepeatedKeyError(_repeated(key, lines[key], line))
                lines[key] = line
            return super().construct_mapping(node, deep=deep)

        def flatten_mapping(self, node: Any) -> None:
            _check_merges(node)
            super().flatten_mapping(node)
            _check_size(node)

        def construct_scalar(self, node: Any) -> Any:
            value = super().construct_scalar(node)
            if isinstance(value, str) and _SURROGATES.search(value):
                return _whole_characters(value, node.start_mark.line + 1)
            return value

    return StrictLoader


def _repeated(key: object, first: int, second: int) -> str:
    where = f"in line {first}" if first == second else f"in lines {first} and {second}"
    cure = (
        " Several domains of one field are a list under it, each with a `when` of its own."
        if "." in str(key)
        else ""
    )
    return (
        f"the key {key!r} stands twice in one mapping, {where}, and one of the values would be "
        f"lost. Keep one, or write both under it.{cure}"
    )


NUMBER_AS_TEXT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def number_if_written_so(value: Any) -> Any:
    """YAML reads 3e-4 as text; in a field it is a number, and so it is in a list of choices."""
    if isinstance(value, str) and NUMBER_AS_TEXT.fullmatch(value):
        return float(value)
    return value
