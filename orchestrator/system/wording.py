"""Parts of messages: texts cut to a length, lists of names, and the nearest known name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

LONGEST_SHOWN = 60
_PLAIN = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
"""Words that YAML reads as a truth value or as nothing."""


def cut(text: str, most: int = LONGEST_SHOWN) -> str:
    """A text for a message: whole, or its beginning and three dots.

    Args:
        text: Any text.
        most: Characters that are shown.

    Returns:
        At most that many characters, all of which can be printed.
    """
    shown = text if len(text) <= most else text[: most - 3] + "..."
    return shown.encode("utf-8", "backslashreplace").decode()


def one_line(error: BaseException) -> str:
    """An error of another library in one line of at most 300 characters, all of them printable."""
    text = " ".join(str(error).split()) or type(error).__name__
    return cut("".join(c if c.isprintable() else "?" for c in text), 300)


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in quotes, the first of them where there are many.

    Args:
        names: The names.
        most: How many are shown.

    Returns:
        Such as `'a', 'b' and 3 more`; `none` where there are none.
    """
    every = list(names)
    shown = ", ".join(repr(cut(name, 40)) for name in every[:most])
    return (shown or "none") + (f" and {len(every) - most} more" if len(every) > most else "")


def as_yaml(text: str) -> str:
    """A text as it is written in a YAML file, in quotes where it needs them.

    Args:
        text: Any text, such as the name of a column.

    Returns:
        One line of characters that can be printed.
    """
    plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT
    return text if plain else json.dumps(text)


def suggestion(name: str, known: list[str]) -> str:
    """A sentence that names the nearest known word, or nothing; capitals do not count."""
    import difflib

    folded = {word.casefold(): word for word in reversed(known)}
    near = difflib.get_close_matches(name.casefold(), list(folded)[::-1], n=1, cutoff=0.5)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""
