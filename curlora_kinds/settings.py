"""Settings of a kind: what each may be, its default, and the nearest name to an unknown one."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting: its default and what it may be. Each subclass is another type of value."""

    default: Any = field(kw_only=False)
    """What it is where nothing is said."""
    meaning: str = field(kw_only=False)
    """One line."""
    in_file: bool = True
    """Whether an experiment file may name it; else the orchestrator gives it, or nobody."""

    @property
    def annotation(self) -> Any:
        """The type of its values."""
        raise NotImplementedError

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that the setting cannot be.

        Args:
            name: The setting's name.
            value: What was given.

        Raises:
            ValueError: It is of another type, or outside the range.
        """
        raise NotImplementedError

    def taken(self, value: Any) -> Any:
        """Give a checked value in the one form that it is kept in.

        Args:
            value: A value that `check` lets pass.

        Returns:
            It, or its equal in that form.
        """
        return value


@dataclass(frozen=True, kw_only=True)
class Number(Setting):
    """A finite number between bounds."""

    least: float | None = None
    """The smallest number allowed."""
    above: float | None = None
    """A number that all allowed ones are above."""
    most: float | None = None
    """The largest number allowed."""
    below: float | None = None
    """A number that all allowed ones are below."""
    nonzero: bool = False
    """Whether 0 is not allowed."""
    optional: bool = False
    """Whether None is allowed."""
    words: tuple[str, ...] = ()
    """The words allowed in place of a number."""
    advice: str = ""
    """What to do instead of a number out of range, as a sentence."""

    _type = float

    @property
    def annotation(self) -> Any:
        """The type of a number; what else it may be is said by `optional` and `words`."""
        return self._type

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that the setting cannot be.

        Args:
            name: The setting's name.
            value: What was given.

        Raises:
            ValueError: It is no such number, or outside the range.
        """
        if (value is None and self.optional) or (isinstance(value, str) and value in self.words):
            return
        number = isinstance(value, int | self._type) and not isinstance(value, bool)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{name}` must be finite, got {value!r}.{self._advice()}")
        if not number or not self._holds(value):
            raise ValueError(f"`{name}` must be {self._allowed()}, got {value!r}.{self._advice()}")

    def _holds(self, value: Any) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
            and not (self.nonzero and value == 0)
        )

    def _advice(self) -> str:
        return f" {self.advice}" if self.advice else ""

    def _allowed(self) -> str:
        bounds = (("of at least", self.least), ("above", self.above))
        bounds += (("at most", self.most), ("below", self.below))
        said = [f"{words} {bound:g}" for words, bound in bounds if bound is not None]
        said += ["other than 0"] if self.nonzero else []
        noun = "a whole number" if self._type is int else "a number"
        other = "".join(f"{word!r} or " for word in self.words)
        return f"{other}{noun} {' and '.join(said)}".strip()

    def taken(self, value: Any) -> Any:
        """Give a number as the setting's type, as YAML reads 10 as a whole number.

        Args:
            value: A value that `check` lets pass.

        Returns:
            The same number, or word, or None.
        """
        return value if value is None or isinstance(value, str) else self._type(value)


@dataclass(frozen=True, kw_only=True)
class Whole(Number):
    """A whole number between bounds."""

    _type = int


@dataclass(frozen=True, kw_only=True)
class ShareOrCount(Setting):
    """A share above 0 and below 1, or a whole number from 1 on."""

    @property
    def annotation(self) -> Any:
        """The type of its values: 2 is a number, 0.2 a share."""
        return int | float

    def check(self, name: str, value: Any) -> None:
        """Refuse what is neither.

        Args:
            name: The setting's name.
            value: What was given.

        Raises:
            ValueError: It is no such share or number.
        """
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not whole and not (isinstance(value, float) and 0 < value < 1):
            raise ValueError(
                f"`{name}` must be a share above 0 and below 1, or a whole number of directions to "
                f"keep, got {value!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Choice(Setting):
    """One of a few words."""

    choices: tuple[str, ...]
    """The words."""
    optional: bool = False
    """Whether None is allowed."""

    @property
    def annotation(self) -> Any:
        """The type of its values: a literal."""
        return Literal[self.choices]

    def check(self, name: str, value: Any) -> None:
        """Refuse another word.

        Args:
            name: The setting's name.
            value: What was given.

        Raises:
            ValueError: It is none of the words.
        """
        if value not in self.choices and not (value is None and self.optional):
            raise ValueError(
                f"`{name}` must be one of {', '.join(self.choices)}, got {value!r}."
                f"{nearest(value, self.choices)}"
            )


@dataclass(frozen=True, kw_only=True)
class Flag(Setting):
    """True or false; None too where that is the default."""

    @property
    def annotation(self) -> Any:
        """The type of its values."""
        return bool | None if self.default is None else bool

    def check(self, name: str, value: Any) -> None:
        """Refuse anything else.

        Args:
            name: The setting's name.
            value: What was given.

        Raises:
            ValueError: It is not true or false.
        """
        if not isinstance(value, bool) and not (value is None and self.default is None):
            raise ValueError(f"`{name}` must be true or false, got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class Targets(Setting):
    """The layers that are adapted: module names by their ends, or "all-linear"."""

    default: Any = field(default=None, kw_only=False)
    meaning: str = field(
        default='Module name endings, or "all-linear"; None: queries, keys and values as the base '
        "names them.",
        kw_only=False,
    )

    @property
    def annotation(self) -> Any:
        """The type of its values in a file; the library takes a regular expression, too."""
        return tuple[str, ...] | Literal["all-linear"] | None

    def check(self, name: str, value: Any) -> None:
        """Refuse what names no module.

        Args:
            name: The setting's name.
            value: What was given.

        Raises:
            ValueError: It is empty, or not made of names.
        """
        if value is None or (isinstance(value, str) and value):
            return
        named = isinstance(value, list | tuple | set | frozenset)
        if not named or not value or not all(isinstance(item, str) for item in value):
            raise ValueError(
                f"`{name}` must be a list of module names (by their ends) or 'all-linear', got "
                f"{value!r}."
            )

    def taken(self, value: Any) -> Any:
        """Give names as a list.

        Args:
            value: A value that `check` lets pass.

        Returns:
            A list as it was written, any other collection sorted.
        """
        return sorted(value) if isinstance(value, tuple | set | frozenset) else value


Settings = Mapping[str, Setting]
"""All settings of a kind by name."""


def complete(owner: str, known: Settings, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the settings of a kind and fill in the defaults.

    Args:
        owner: Whose settings they are, for messages.
        known: All of its settings.
        given: Values for some of them.

    Returns:
        A value for every name of `known`.

    Raises:
        ValueError: A name is unknown, or a value is outside its range.
    """
    for name in given:
        if name not in known:
            raise ValueError(f"{owner} has no setting {name!r}.{nearest(name, known)}")
    values: dict[str, Any] = {}
    for name, setting in known.items():
        value = given.get(name, setting.default)
        setting.check(name, value)
        values[name] = setting.taken(value)
    return values


def nearest(name: Any, known: Iterable[str]) -> str:
    """Name the nearest of some known names, if one is near, and all of them.

    Args:
        name: What was written.
        known: The names that exist.

    Returns:
        One or two short sentences with a space before them.
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."


def maker(place: str | Callable[..., Any]) -> Callable[..., Any]:
    """Give what builds a kind.

    Args:
        place: "module:name", as an entry point is written, which is imported; or the function.

    Returns:
        A class or function.
    """
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
