"""HTML and SVG elements whose text is always escaped."""

from __future__ import annotations

import html
import re

_VOID = {"meta", "br", "input", "line", "circle", "rect", "path", "polyline", "polygon"}
# What XML and HTML allow in no text; a task file may hold anything.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Markup(str):
    """Text that is markup already, made by `element` or `join` only (and from constants)."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Any text as markup that shows it; markup stays what it is."""
    if isinstance(text, Markup):
        return text
    return Markup(html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        tag: Its name.
        *children: Text (escaped) and markup; None is left out.
        **attributes: Values are escaped; None and False leave the attribute out, True writes its
            bare name. A final underscore is dropped (`class_`), others become hyphens.

    Returns:
        The element's markup.
    """
    words = [tag]
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words.append(f'{name}="{escaped(value)}"')
    opening = f"<{' '.join(words)}>"
    if tag in _VOID:
        return Markup(opening if tag in {"meta", "br", "input"} else opening[:-1] + "/>")
    return Markup(opening + join(*children) + f"</{tag}>")


def join(*parts: object) -> Markup:
    """Parts one after another, escaped where they are no markup; None is left out."""
    return Markup("".join(escaped(part) for part in parts if part is not None))
