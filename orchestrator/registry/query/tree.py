"""What a filter says, as a tree of conditions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Sign = Literal["=", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class Value:
    """What something is compared with, as it was written."""

    text: str
    """Without its quotes."""
    quoted: bool = False
    """Whether it had them: then it is text, and never a number."""
    ago: bool = False
    """Whether `ago` follows it: a duration, counted back from now."""

    @property
    def number(self) -> float | None:
        """The number that it is, None where it is none."""
        if self.quoted:
            return None
        try:
            return float(self.text)
        except ValueError:
            return None


@dataclass(frozen=True)
class Comparison:
    """`NAME SIGN VALUE`."""

    name: str
    sign: Sign
    value: Value
    at: int = 0
    """Where in the text the name begins."""


@dataclass(frozen=True)
class Among:
    """`NAME in (VALUE, ...)`, or `not in`."""

    name: str
    values: tuple[Value, ...]
    negated: bool = False
    at: int = 0


@dataclass(frozen=True)
class Like:
    """`NAME like PATTERN`, or `not like`; `%` stands for any text, `_` for one character."""

    name: str
    pattern: str
    negated: bool = False
    at: int = 0


@dataclass(frozen=True)
class Missing:
    """`NAME is missing`, or `is not missing`."""

    name: str
    negated: bool = False
    at: int = 0


@dataclass(frozen=True)
class Not:
    """`not CONDITION`: everything that the condition leaves out."""

    inner: Node


@dataclass(frozen=True)
class Both:
    """`CONDITION and CONDITION ...`."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """`CONDITION or CONDITION ...`."""

    parts: tuple[Node, ...]


Condition = Comparison | Among | Like | Missing
Node = Condition | Not | Both | Either


def conditions(node: Node) -> Iterator[Condition]:
    """The conditions of a tree, in the order in which they were written."""
    match node:
        case Not(inner):
            yield from conditions(inner)
        case Both(parts) | Either(parts):
            for part in parts:
                yield from conditions(part)
        case _:
            yield node
