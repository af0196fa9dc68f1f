"""Which lines a journal has, found without reading what they say.

A line's sum vouches for its text and for the line before, so the text need not be parsed to be
trusted: number, time, event and trial stand first in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.records.journal_lines import checked_line, is_vouched_for

_HEAD = re.compile(
    rb'\{"n":(\d+),"time":(null|[0-9.eE+-]+),"event":"(\w+)"(?:,"trial":"([\w.-]+)")?'
)

OF_TRIALS = frozenset(
    ("trial_proposed", "trial_started", "stage_report", "trial_ended", "cells_scored",
     "trial_measured")
)  # fmt: skip
"""The events that say something of one trial."""
SCORED_LATER = frozenset(("cells_scored", "trial_measured"))
"""Those of them that leave a verdict as it was."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a line of a journal is, and what it is about."""

    n: int
    """Its number, from 0."""
    start: int
    length: int
    """Bytes, its end left out."""
    event: str
    trial: str = ""
    """Of an event of `OF_TRIALS`; else empty."""
    time: float | None = None


def scanned(
    file: IO[bytes], path: Path, *, start: int, number: int, before: bytes
) -> Iterator[Span]:
    """The whole lines of a journal from a place on, each checked.

    Args:
        file: The journal, open for reading.
        path: Its path, for messages.
        start: Where to begin, in bytes.
        number: Of the line that begins there.
        before: The line before it, without its end.

    Yields:
        Spans, in order; a torn last line is left out.

    Raises:
        JournalError: A line is damaged.
    """
    file.seek(start)
    for raw in file:
        if not raw.endswith(b"\n"):
            return
        line = raw[:-1]
        yield _span(path, number, start, line, before)
        start, number, before = start + len(raw), number + 1, line


def _span(path: Path, number: int, start: int, raw: bytes, before: bytes) -> Span:
    head = _HEAD.match(raw)
    if (
        head is not None
        and int(head[1]) == number
        and (number > 0 or head[3] == b"sweep_opened")
        and is_vouched_for(raw, before)
    ):
        event = head[3].decode()
        if event not in OF_TRIALS or head[4]:
            time = None if head[2] == b"null" else float(head[2])
            trial = head[4].decode() if event in OF_TRIALS else ""
            return Span(number, start, len(raw), event, trial, time)
    # Of an earlier version, or written by another program, or damaged: then this says how.
    line = checked_line(path, number, raw, before)
    event, trial = line["event"], line.get("trial")
    named = trial if event in OF_TRIALS and isinstance(trial, str) else ""
    return Span(number, start, len(raw), event, named, line.get("time"))
