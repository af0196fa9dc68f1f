"""Columns of a source under the names that a task uses, and paths into structured values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.data.formats.placed_row import DataError, PlacedRow, Row, where_is
from orchestrator.system.wording import listed, suggestion


class _AbsentError(LookupError):
    """A path that leads nowhere in a row; the message says where it ends."""


def canonical_row(
    row: Row,
    columns: Mapping[str, str | Sequence[str]],
    constants: Mapping[str, Any] | None = None,
) -> Row:
    """A row with canonical column names added.

    Args:
        row: The row as the source has it.
        columns: Canonical name to the source's path, or to several whose values become one list;
            see `at_path`.
        constants: Columns with the same value in every row.

    Returns:
        The row's own columns with the canonical ones.

    Raises:
        DataError: If the row lacks a column.
    """
    whole = {**row, **(constants or {})}
    found = row.with_values(whole) if isinstance(row, PlacedRow) else PlacedRow(whole, "", 0, "")
    add_columns([found], columns)
    return found


def add_columns(rows: Sequence[PlacedRow], columns: Mapping[str, str | Sequence[str]]) -> None:
    """Add canonical columns; what one row lacks is None in it, what all lack is an error."""
    lacking: dict[str, str] = {}
    found: set[str] = set()

    def value(row: PlacedRow, path: str, canonical: str) -> Any:
        try:
            result = at_path(row, path)
        except _AbsentError as error:
            if path not in lacking:
                lacking[path] = (
                    f"{where_is(row)}: `data.columns` maps {canonical!r} to {path!r}, {error}"
                )
            return None
        found.add(path)
        return result

    for row in rows:
        added = {
            canonical: value(row, paths, canonical)
            if isinstance(paths, str)
            else [value(row, path, canonical) for path in paths]
            for canonical, paths in columns.items()
        }
        row.update(added)
    for path, message in lacking.items():
        if path not in found:
            raise DataError(message)


def at_path(row: Row, path: str) -> Any:
    """The value at a path of a row.

    Args:
        row: The row.
        path: Names and numbers with dots between them. A name is a key; in a list a number is a
            place (from 0, from the end where it is negative), and a name is the role of a speaker
            whose last turn is taken: `messages.assistant.content`, `conversations.-1.value`. A
            column whose own name holds dots is found as well.

    Returns:
        The value; None where a part of the way is null, or the list has no such place or speaker.

    Raises:
        _AbsentError: If there is no such key, saying what is there instead.
    """
    if path in row:  # a name of a flat file may hold dots of its own
        return row[path]
    value: Any = row
    for number, part in enumerate(path.split(".")):
        if value is None:
            return None
        if isinstance(value, Mapping):
            if part not in value:
                raise _AbsentError(_absent(part, value, row, deep=number > 0))
            value = value[part]
        elif isinstance(value, list | tuple):
            value = _turn(value, part)
        else:
            raise _AbsentError(
                f"which is not there: {'.'.join(path.split('.')[:number])!r} holds "
                f"{_shown(value)}, which has no parts."
            )
    return value


def _absent(part: str, value: Mapping[str, Any], row: Row, *, deep: bool) -> str:
    known = sorted(map(str, value))
    return (
        f"which is not there.{suggestion(part, known)} "
        + (f"There it has: {listed(known)}. " if deep else "")
        + f"Columns: {listed(sorted(map(str, row)))}."
    )


_ROLES = ("role", "from")
"""What chat data call the speaker of a turn."""


def _turn(turns: Sequence[Any], part: str) -> Any:
    """An element of a list: by its place, or the last one that somebody says."""
    if re.fullmatch(r"-?\d{1,9}", part):
        place_ = int(part)
        return turns[place_] if -len(turns) <= place_ < len(turns) else None
    spoken = [turn for turn in turns if isinstance(turn, Mapping) and _speaker(turn) is not None]
    if turns and not spoken:
        raise _AbsentError(
            f"and there is a list, in which {part!r} names nothing: its elements have no `role`. "
            f"Write a number instead, from 0, or from the end as -1; it begins with "
            f"{_shown(turns[0])}."
        )
    said = [turn for turn in spoken if _speaker(turn) == part]
    return said[-1] if said else None


def _speaker(turn: Mapping[str, Any]) -> str | None:
    return next((str(turn[name]) for name in _ROLES if turn.get(name) is not None), None)


def _shown(value: object) -> str:
    return listed([str(value)])


def paths_into(name: str, value: object) -> list[str]:
    """Paths for `data.columns` to texts within a structured value, the likeliest first.

    Args:
        name: The column.
        value: What it holds.

    Returns:
        At most four, such as `messages.user.content`; none where there is nothing within.
    """
    if isinstance(value, Mapping):
        return [f"{name}.{key}" for key in value][:4]
    if not isinstance(value, list | tuple) or not value:
        return []
    turns = [turn for turn in value if isinstance(turn, Mapping)]
    speakers = list(dict.fromkeys(filter(None, map(_speaker, turns))))
    if not speakers:
        return paths_into(f"{name}.0", value[0]) or [f"{name}.0", f"{name}.-1"]
    text = next((key for key in turns[-1] if key not in _ROLES), "content")
    return [f"{name}.{who}.{text}" for who in speakers][:4]
