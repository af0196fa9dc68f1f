"""From the tree of a filter to an SQL condition with parameters.

Every condition is 0 or 1 and never NULL: a comparison with what is missing is false, `!=` and
`not in` included, so that `not` keeps exactly what its condition leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.registry.query.errors import QueryError
from orchestrator.registry.query.fields import Field
from orchestrator.registry.query.moments import moment
from orchestrator.registry.query.tree import (
    Among,
    Both,
    Comparison,
    Either,
    Like,
    Missing,
    Node,
    Not,
    Sign,
    Value,
)
from orchestrator.system.wording import suggestion


@dataclass
class Condition:
    """An SQL condition with its parameters, in the order of their question marks."""

    sql: str = "1"
    parameters: list[Any] = field(default_factory=list[Any])
    fields: set[Field] = field(default_factory=set[Field])
    """What it reads."""


@dataclass(frozen=True)
class Names:
    """What a filter's names mean."""

    find: Callable[[str], Field]
    """Gives the field of a name, or raises a `QueryError`."""
    holds_numbers: Callable[[Field], bool]
    """Whether any trial has a number there."""
    said: str = "where"
    """What the user calls the filter."""


def compiled(node: Node, names: Names) -> Condition:
    """A filter as SQL.

    Args:
        node: Its tree.
        names: What its names mean.

    Returns:
        A condition over the tables that its fields name. Whoever runs it gives SQLite the functions
        `as_text` and `compared` of `values`.

    Raises:
        QueryError: A name is unknown, or unlike things are compared.
    """
    compiler = _Compiler(names)
    sql = compiler.condition(node)
    return Condition(sql, compiler.parameters, compiler.fields)


class _Compiler:
    def __init__(self, names: Names) -> None:
        self._names = names
        self.parameters: list[Any] = []
        self.fields: set[Field] = set()

    def condition(self, node: Node) -> str:
        match node:
            case Both(parts):
                return f"({' AND '.join(map(self.condition, parts))})"
            case Either(parts):
                return f"({' OR '.join(map(self.condition, parts))})"
            case Not(inner):
                return f"(NOT {self.condition(inner)})"
            case _:
                return self._one(node, self._field(node.name))

    def _one(self, node: Comparison | Among | Like | Missing, found: Field) -> str:
        match node:
            case Missing(_, negated):
                return f"({found.sql} IS {'NOT ' if negated else ''}NULL)"
            case Like(_, pattern, negated):
                return self._like(found, pattern, negated=negated)
            case Among(_, values, negated):
                any_of = " OR ".join(self._compared(found, "=", value) for value in values)
                return f"({found.sql} IS NOT NULL AND {'NOT ' if negated else ''}({any_of}))"
            case Comparison(_, sign, value):
                return self._compared(found, sign, value)

    def _field(self, name: str) -> Field:
        found = self._names.find(name)
        self.fields.add(found)
        return found

    def _like(self, found: Field, pattern: str, *, negated: bool) -> str:
        self.parameters.append(pattern)
        text = f"as_text({found.sql})" if found.kind != "truth" else _truth(found)
        return f"({found.sql} IS NOT NULL AND {text} {'NOT ' if negated else ''}LIKE ? ESCAPE '\\')"

    def _compared(self, found: Field, sign: Sign, value: Value) -> str:
        if value.ago and found.kind != "moment":
            raise QueryError(
                f"`{self._names.said}`: {found.name} is no time, so it cannot be compared with "
                f"'{value.text} ago'."
            )
        if found.values:
            self._check_word(found, value.text)
        match found.kind:
            case "moment":
                self.parameters.append(moment(value, said=self._names.said, name=found.name))
                return f"COALESCE({found.sql} {sign} ?, 0)"
            case "truth":
                self.parameters.append(value.text.lower())
                return f"COALESCE({_truth(found)} {sign} ?, 0)"
            case "state":
                self.parameters.append(value.text.lower())
                return f"COALESCE(lower({found.sql}) {sign} ?, 0)"
            case "text":
                self.parameters.append(value.text)
                return f"COALESCE({found.sql} {sign} ?, 0)"
            case "value":
                return self._value(found, sign, value)

    def _check_word(self, found: Field, text: str) -> None:
        if text.casefold() not in map(str.casefold, found.values):
            raise QueryError(
                f"`{self._names.said}`: {found.name} is never {text!r}."
                f"{suggestion(text, list(found.values))} It is one of {', '.join(found.values)}."
            )

    def _value(self, found: Field, sign: Sign, value: Value) -> str:
        number = value.number
        if number is None:
            self._refuse_number(found, sign, value)
        # The types of one field may differ between trials, so each is asked for its own.
        parts, parameters = [], []
        if number is not None:
            parts.append(f"WHEN 'integer' THEN {found.sql} {sign} ?")
            parts.append(f"WHEN 'real' THEN {found.sql} {sign} ?")
            parameters += [number, number]
        parts.append(f"WHEN 'text' THEN {found.sql} {sign} ?")
        self.parameters += [*parameters, value.text, sign, value.text]
        return (
            f"COALESCE(CASE typeof({found.sql}) {' '.join(parts)} "
            f"WHEN 'null' THEN 0 ELSE compared({found.sql}, ?, ?) END, 0)"
        )

    def _refuse_number(self, found: Field, sign: Sign, value: Value) -> None:
        if value.quoted and sign in {"=", "!="}:
            return
        if self._names.holds_numbers(found):
            raise QueryError(
                f"`{self._names.said}`: {found.name} is a number, so it should be compared with "
                f"one, got {value.text!r}."
            )


def _truth(found: Field) -> str:
    return f"(CASE {found.sql} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END)"
