"""A kind of retention: its settings, what each may be, and how it is built."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curlora.retention.protocol import Retention


@dataclass(frozen=True)
class Setting:
    """One setting of a retention: its default and what it may be."""

    default: int | float | str | bool | None
    """What it is where the file says nothing."""
    meaning: str
    """One line."""
    low: float = 0.0
    """Smallest number allowed."""
    high: float = math.inf
    """Largest number allowed."""
    choices: tuple[str, ...] = ()
    """The words allowed, for a setting that is a word."""
    words: tuple[str, ...] = ()
    """The words allowed beside numbers, for a setting that is a number otherwise."""

    def check(self, name: str, value: Any) -> None:
        """Refuse a value outside the range.

        Args:
            name: The setting's name.
            value: What was given.

        Raises:
            ValueError: It is of another type than the default, or outside the range.
        """
        if self.choices:
            if value not in self.choices:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(self.choices)}, got {value!r}."
                    f"{_nearest(value, self.choices)}"
                )
        elif self.default is None or isinstance(self.default, bool):
            allowed = (True, False) if self.default is not None else (None, True, False)
            if not any(value is word for word in allowed):
                raise ValueError(f"`{name}` must be true or false, got {value!r}.")
        elif not (isinstance(value, str) and value in self.words):
            self._check_number(name, value)

    def _check_number(self, name: str, value: Any) -> None:
        whole = isinstance(self.default, int)
        number = isinstance(value, int) if whole else isinstance(value, int | float)
        if isinstance(value, bool) or not number or not self.low <= value <= self.high:
            below = "" if self.high == math.inf else f" and at most {self.high:g}"
            words = "".join(f"{word!r} or " for word in self.words)
            raise ValueError(
                f"`{name}` must be {words}a {'whole ' if whole else ''}number of at least "
                f"{self.low:g}{below}, got {value!r}."
            )
        if not math.isfinite(value):
            raise ValueError(f"`{name}` must be finite, got {value!r}.")


@dataclass(frozen=True)
class RetentionKind:
    """One row of the table of retentions."""

    name: str
    """What an experiment calls it."""
    settings: Mapping[str, Setting]
    """What can be set, by name; everything has a default."""
    summary: str
    """One line, with the paper."""
    make: Callable[[dict[str, Any]], Retention]
    """From a full set of checked settings."""
    why_not: Callable[[str, Mapping[str, Any]], str | None]
    """From an adapter's kind and a full set of settings."""

    def complete(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Fill in defaults.

        Args:
            settings: Some of the settings.

        Returns:
            All of them, numbers of the default's type.

        Raises:
            ValueError: A setting is unknown or outside its range.
        """
        for name in settings or {}:
            if name not in self.settings:
                raise ValueError(
                    f"Retention {self.name!r} has no setting {name!r}."
                    f"{_nearest(name, tuple(self.settings))}"
                )
        values: dict[str, Any] = {name: setting.default for name, setting in self.settings.items()}
        values |= settings or {}
        for name, setting in self.settings.items():
            setting.check(name, values[name])
            number = isinstance(setting.default, float) or setting.words
            if number and not isinstance(values[name], str):
                values[name] = float(values[name])  # YAML reads 10 as a whole number
        return values

    def build(self, settings: Mapping[str, Any] | None = None) -> Retention:
        """Build the retention.

        Args:
            settings: Some of the settings.

        Returns:
            One that has seen nothing.

        Raises:
            ValueError: A setting is unknown or outside its range, or two contradict each other.
        """
        return self.make(self.complete(settings))

    def refuses(self, adapter_kind: str, settings: Mapping[str, Any] | None = None) -> str | None:
        """Say why this retention does not go with an adapter.

        Args:
            adapter_kind: The adapter's name. `r`, among `settings`, may give its rank.
            settings: Some of the settings.

        Returns:
            The reason and what to do instead, or None if the two go together.

        Raises:
            ValueError: A setting is unknown or outside its range.
        """
        given = dict(settings or {})
        rank = given.pop("r", None)
        values = self.complete(given)
        if adapter_kind == "head_only" and self.name not in {"none", "replay"}:
            return (
                "`head_only` trains no adapter, so there is nothing of earlier tasks to protect. "
                "Use retention `none`, or `replay`."
            )
        return self.why_not(adapter_kind, values | {"r": rank})


def _nearest(name: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."
