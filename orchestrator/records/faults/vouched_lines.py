"""Which lines of a damaged journal are as they were written, wherever they stand now.

The sum of a line is a hash of it and of the line before. So a line is vouched for by its own sum
together with the line before, or by the sum of the line that follows it: of a changed line its
neighbours remain, and lines that were swapped or doubled are all found again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import cast

from orchestrator.records.event import Line
from orchestrator.records.journal_lines import SUM_END, line_sum
from orchestrator.system.strict_json import plain


@dataclass(frozen=True)
class Vouched:
    """What is left of a journal."""

    lines: dict[int, Line]
    """By number, those that are as they were written, without their sums; in order."""
    lost: tuple[int, ...]
    """The numbers of those that are not, from 0."""


@dataclass(frozen=True)
class _Found:
    """A line of the file that might be one of the journal's."""

    raw: bytes
    line: Line
    sum: str | None


def vouched_lines(content: bytes) -> Vouched:
    """The lines of a journal that can be trusted.

    Args:
        content: The file; what follows the last end of a line was never acknowledged.

    Returns:
        The lines, and which are missing. Of a journal of an earlier version, without sums, every
        line that can be read and stands in its place.
    """
    complete = content[: content.rfind(b"\n") + 1].splitlines()
    by_number: dict[int, list[_Found]] = defaultdict(list)
    for place, raw in enumerate(complete):
        found = _read(raw)
        if found is not None and (found.sum is not None or found.line["n"] == place):
            by_number[found.line["n"]].append(found)
    lines: dict[int, Line] = {}
    known: set[bytes] = set()
    for number in sorted(by_number):
        trusted = [one for one in by_number[number] if _is_trusted(one, number, by_number)]
        if trusted:
            lines[number] = trusted[0].line
            known |= {one.raw for one in trusted}
    # After the last line that is known there may have been others, which cannot be read.
    last = max((place for place, raw in enumerate(complete) if raw in known), default=-1)
    count = max(lines, default=-1) + len(complete) - last
    return Vouched(lines, tuple(n for n in range(count) if n not in lines))


def _read(raw: bytes) -> _Found | None:
    try:
        document = plain(raw)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    line = cast("Line", document)
    number = line.get("n")
    if not isinstance(line.get("event"), str) or type(number) is not int or number < 0:
        return None
    line.pop("sum", None)
    end = SUM_END.search(raw)
    return _Found(raw, line, None if end is None else end[1].decode())


def _is_trusted(one: _Found, number: int, by_number: dict[int, list[_Found]]) -> bool:
    """Whether its neighbours or its age vouch for a line."""
    if one.sum is None:
        return True
    before = [b""] if number == 0 else [each.raw for each in by_number.get(number - 1, ())]
    return any(_follows(each, one) for each in before) or any(
        _follows(one.raw, each) for each in by_number.get(number + 1, ())
    )


def _follows(before: bytes, one: _Found) -> bool:
    """Whether the sum of a line holds after some other."""
    if one.sum is None:
        return False
    end = SUM_END.search(one.raw)
    assert end is not None, "it has a sum"
    return line_sum(before, one.raw[: end.start()] + b"}") == one.sum
