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
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error_type(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise error_type(f"{path}: cannot be read ({error}).") from None
    try:
        # A SafeLoader, which makes plain values only.
        return yaml.load(text, Loader=_strict_loader())
    except (_RepeatedKeyError, _HalfCharacterError) as error:
        raise error_type(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A date of month 13 is a ValueError, and brackets may be nested without end.
        raise error_type(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from None


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
