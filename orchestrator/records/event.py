"""What every event of a journal has: its line, its number, its time."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Self, TypeAlias, cast

from orchestrator.records.errors import JournalError
from orchestrator.system.field_types import wrong_fields
from orchestrator.system.wording import cut

Line: TypeAlias = dict[str, Any]
"""A line of a journal as JSON has it."""

STAMP = ("n", "time")
ONLY_IF_SAID = {"only_if_said": True}
"""Of a field: it is not written where it is None."""


def named_once(document: Any) -> Any:
    """The same value, whose names are held in memory once for all lines that have them.

    JSON gives every line names of its own; ten thousand trials with 50 measures each would hold
    half a million texts.

    Args:
        document: Objects with values of any kind, of which those that are objects are looked into.

    Returns:
        A document that equals it; anything that is no object, as it is.
    """
    if type(document) is not dict:
        return document
    return {
        sys.intern(name): named_once(value) if type(value) is dict else value
        for name, value in cast("dict[str, Any]", document).items()
    }


NAMED: dict[str, Any] = {"read": named_once}
"""Of a field whose names recur from line to line, see `named_once`."""


def typed(read: Callable[[Any], Any], write: Callable[[Any], Any]) -> dict[str, Any]:
    """Of a field whose value is of a class of ours: how it is read from JSON, and written."""
    return {"read": read, "write": write}


@dataclass(frozen=True)
class Event:
    """Something that happened in a sweep."""

    name: ClassVar[str]
    """What its line calls it: the line's `event`."""

    n: int = field(default=-1, kw_only=True)
    """The number of its line, from 0; -1 before it is written."""
    time: float | None = field(default=None, kw_only=True)
    """Seconds since the epoch; None before it is written."""

    def to_line(self) -> Line:
        """The event as the journal holds it; without number and time before it is written."""
        stamp = {name: getattr(self, name) for name in STAMP} if self.n >= 0 else {}
        return {**stamp, "event": self.name, **self._content()}

    def _content(self) -> dict[str, Any]:
        """What the line holds of the event itself."""
        content: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in STAMP or (value is None and "only_if_said" in one.metadata):
                continue
            write = one.metadata.get("write")
            content[one.name] = value if write is None else write(value)
        return content

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """The event of a line.

        Args:
            line: One whose `event` is the `name` of this class.

        Returns:
            The event, with defaults for what the line does not hold.

        Raises:
            JournalError: If something is missing that no version has left out, or is of a type
                that none has written.
        """
        held: dict[str, Any] = {}
        for name, read in _fields_of(cls):
            value = line.get(name)
            if value is not None:
                held[name] = value if read is None else _read(name, read, line)
        lacking = [name for name in _needed_by(cls) if name not in held]
        if lacking:
            raise JournalError(
                f"Line {line.get('n')} of the journal, `{line['event']}`, lacks "
                f"{', '.join(f'`{name}`' for name in lacking)}."
            )
        event = cls(**held)
        for name, wanted in wrong_fields(event).items():
            raise JournalError(_wrong(name, line, wanted))
        trial = held.get("trial")
        if trial is not None and not TRIAL_NAME.fullmatch(trial):
            raise JournalError(_wrong("trial", line, "a trial's name"))
        return event


TRIAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names of trials; they are names of folders as well."""


@functools.cache
def _fields_of(kind: type[Event]) -> tuple[tuple[str, Callable[[Any], Any] | None], ...]:
    """Of each field its name, and how it is read where its value is of a class of ours."""
    return tuple((f.name, f.metadata.get("read")) for f in fields(kind))


@functools.cache
def _needed_by(kind: type[Event]) -> tuple[str, ...]:
    """The fields that no version has left out."""
    return tuple(f.name for f in fields(kind) if not _has_default(f))


def _read(name: str, read: Callable[[Any], Any], line: Mapping[str, Any]) -> Any:
    try:
        return read(line[name])
    except (TypeError, ValueError, AttributeError, KeyError):
        raise JournalError(_wrong(name, line, "as docs/journal.md says")) from None


def _wrong(name: str, line: Mapping[str, Any], wanted: str) -> str:
    return (
        f"Line {line.get('n')} of the journal, `{line['event']}`: `{name}` should be {wanted}, got "
        f"{cut(repr(line.get(name)))}. No version writes that; take the journal from where it was "
        "made."
    )


def _has_default(one: Field[Any]) -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING
