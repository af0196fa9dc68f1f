"""From the text of a filter to its tree.

    filter    = all { "or" all }
    all       = one { "and" one }
    one       = "not" one | "(" filter ")" | condition
    condition = NAME SIGN VALUE [ "ago" ]
              | NAME [ "not" ] "in" "(" VALUE { "," VALUE } ")"
              | NAME [ "not" ] "like" VALUE
              | NAME "is" [ "not" ] "missing"

A name is letters, digits, `_`, `.` and `-`; any other is written between back-ticks. A value is a
word without spaces, quotes and signs, or any text in single or double quotes. Words of the language
are read in capitals, too.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

from orchestrator.registry.query.errors import QueryError
from orchestrator.registry.query.tree import (
    Among,
    Both,
    Comparison,
    Condition,
    Either,
    Like,
    Missing,
    Node,
    Not,
    Sign,
    Value,
)
from orchestrator.system.wording import cut

LONGEST = 10_000
"""Characters of a filter; a longer one was not written by a person."""
MOST_CONDITIONS = 200
DEEPEST = 50
"""Brackets and `not` within each other."""

EXAMPLE = "gain>0.05 and (method.adapter.kind=curlora or state=FAILED)"
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[\w.\-]+|`[^`]+`")
_SIGN = re.compile(r"<=|>=|!=|==|=|<|>")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
# Brackets belong to a word as far as they are closed within it.
_WORD = re.compile(r"(?:[^\s<>=!\"'()]|\([^\s<>=!\"'()]*\))+")
_WORD_OF_LIST = re.compile(r"[^\s<>=!\"'(),]+")


def parse(text: str, *, said: str = "where") -> Node:
    """The tree of a filter.

    Args:
        text: For example `gain > 0.05 and (state = COMPLETE or state = STOPPED)`.
        said: What the user calls it, for messages: an option or an argument.

    Returns:
        The tree.

    Raises:
        QueryError: If it is no filter; the message shows the place.
    """
    return _Parser(text, said).whole()


class _Parser:
    """Reads a filter from left to right; `at` is how far."""

    def __init__(self, text: str, said: str) -> None:
        # Half of a pair of surrogates has no UTF-8; values in the index are written so, too.
        self._text = text.encode("utf-8", "backslashreplace").decode()
        self._said, self._at = said, 0
        self._conditions = self._depth = 0

    def whole(self) -> Node:
        if len(self._text) > LONGEST:
            raise QueryError(
                f"`{self._said}` may have {LONGEST:,} characters, got {len(self._text):,}."
            )
        node = self._filter()
        self._skip()
        if self._at < len(self._text):
            if self._text[self._at] == ")":
                raise self._wrong("there is no bracket that this one closes")
            raise self._wrong(
                "it does not follow the comparison before it: `and` or `or` should stand between"
            )
        return node

    def _filter(self) -> Node:
        parts = [self._all()]
        while self._word("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _all(self) -> Node:
        parts = [self._one()]
        while self._word("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def _one(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._wrong(f"brackets and `not` stand more than {DEEPEST} deep")
        try:
            # A field could be called `not`: what a sign follows is a name.
            if self._word("not", unless_sign=True):
                return Not(self._one())
            if self._mark("("):
                node = self._filter()
                if not self._mark(")"):
                    raise self._wrong(
                        "a bracket that was opened is not closed: `)` should stand here"
                    )
                return node
            return self._condition()
        finally:
            self._depth -= 1

    def _condition(self) -> Condition:
        self._conditions += 1
        if self._conditions > MOST_CONDITIONS:
            raise self._wrong(f"these are more than {MOST_CONDITIONS} conditions")
        self._skip()
        begin, name = self._at, self._name()
        sign = self._take(_SIGN)
        if sign is not None:
            value = self._value(_WORD)
            return Comparison(name, cast("Sign", "=" if sign == "==" else sign), value, begin)
        if self._word("is"):
            negated = self._word("not")
            if not self._word("missing"):
                raise self._wrong("after `is` should come `missing` or `not missing`")
            return Missing(name, negated, begin)
        negated = self._word("not")
        if self._word("in"):
            return Among(name, self._list(), negated, begin)
        if self._word("like"):
            return Like(name, self._value(_WORD).text, negated, begin)
        raise self._wrong(
            f"after {name!r} should come a sign (= != < <= > >=), `in`, `like` or `is`"
        )

    def _name(self) -> str:
        name = self._take(_NAME)
        if name is None:
            raise self._wrong("here should be a name and what it is compared with")
        return name.strip("`")

    def _list(self) -> tuple[Value, ...]:
        if not self._mark("("):
            raise self._wrong("after `in` should come values in brackets: `in (4, 8)`")
        values = [self._value(_WORD_OF_LIST)]
        while self._mark(","):
            values.append(self._value(_WORD_OF_LIST))
        if not self._mark(")"):
            raise self._wrong("between values should stand `,`, and after the last `)`")
        return tuple(values)

    def _value(self, word: re.Pattern[str]) -> Value:
        quoted = self._take(_QUOTED)
        if quoted is not None:
            return Value(quoted[1:-1], quoted=True)
        plain = self._take(word)
        if plain is None:
            raise self._wrong(
                "here should be a value; text with spaces, signs or brackets is quoted"
            )
        value = Value(plain)
        return replace(value, ago=True) if self._word("ago") else value

    def _skip(self) -> None:
        at = _SPACE.match(self._text, self._at)
        self._at = at.end() if at else self._at

    def _take(self, what: re.Pattern[str]) -> str | None:
        """What stands here and matches, read; None, and nothing read, where that does not."""
        self._skip()
        found = what.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found.group()

    def _mark(self, mark: str) -> bool:
        self._skip()
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        return True

    def _word(self, word: str, *, unless_sign: bool = False) -> bool:
        """Whether a word of the language stands here; it is read then."""
        self._skip()
        end = self._at + len(word)
        after = self._text[end : end + 1]
        if self._text[self._at : end].lower() != word or (after and re.match(r"[\w.\-]", after)):
            return False
        if unless_sign and _SIGN.match(self._text[end:].lstrip()):
            return False
        self._at = end
        return True

    def _wrong(self, why: str) -> QueryError:
        self._skip()
        rest = self._text[self._at :]
        place = f"at character {self._at + 1}, {cut(rest, 24)!r}" if rest else "at its end"
        return QueryError(
            f"`{self._said}`: {cut(self._text, 160)!r} is no filter {place}: {why}. Filters are "
            f"comparisons joined by `and` and `or`, for example {EXAMPLE!r}."
        )
