"""What of a damaged journal is still true of each trial, although lines are missing.

A missing line may have been of any trial that had begun and not ended. Such a trial is believed as
far as its reports are the ones that a trial whose story is whole has made, in their order; without
one to compare it with, up to the first gap. Whatever had ended before a gap, or begun after it, is
whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.records.event import Line
from orchestrator.records.events import (
    CellsScored,
    ChampionRegistered,
    StageReported,
    SweepEnded,
    TrialEnded,
    TrialMeasured,
    TrialProposed,
    TrialStarted,
)
from orchestrator.records.faults.vouched_lines import Vouched
from orchestrator.records.trial_record import BASE_TRIAL

Stage: TypeAlias = tuple[int, float]

_OF_TRIALS = {kind.name for kind in (TrialProposed, TrialStarted, StageReported, TrialEnded)}
_OF_ENDED = {kind.name for kind in (CellsScored, TrialMeasured)}
_OF_A_WHOLE = {kind.name for kind in (SweepEnded, ChampionRegistered)}
"""Events that are true only while nothing of the trials is taken away."""


@dataclass
class _Story:
    """The lines of one trial that are left, by number."""

    lines: dict[int, Line] = field(default_factory=dict[int, Line])

    def numbers(self, event: str) -> list[int]:
        return [number for number, line in self.lines.items() if line["event"] == event]

    def stages(self, upto: float) -> list[Stage]:
        return [_stage(self.lines[n]) for n in self.numbers(StageReported.name) if n < upto]

    @property
    def completed(self) -> bool:
        return any(
            line["event"] == TrialEnded.name and line.get("state") == "COMPLETE"
            for line in self.lines.values()
        )


@dataclass(frozen=True)
class Kept:
    """The lines that a journal goes on with."""

    lines: list[Line]
    """In order; their numbers are those that they had."""
    cut: dict[str, str]
    """By trial, what of it is not kept, in words."""


def kept_stories(vouched: Vouched) -> Kept:
    """Leave out what is not certain any more.

    Args:
        vouched: What is left of a journal, its first line included.

    Returns:
        What is kept.
    """
    stories: dict[str, _Story] = {}
    for number, line in vouched.lines.items():
        if line["event"] in _OF_TRIALS and isinstance(line.get("trial"), str):
            stories.setdefault(line["trial"], _Story()).lines[number] = line
    ends = {name: _certain_until(name, story, vouched.lost) for name, story in stories.items()}
    example = _example(stories, ends)
    cut: dict[str, str] = {}
    for name, (end, why) in ends.items():
        if end is None:
            continue
        story = stories[name]
        if why is None and _agrees(story, example, name):
            ends[name] = (None, None)
            continue
        gone = [n for n in story.lines if n >= end]
        if gone:
            reports = sum(story.lines[n]["event"] == StageReported.name for n in gone)
            cut[name] = why or f"{reports} reports after the gap, and how it ended"
    return Kept(_left(vouched, ends, cut), cut)


def _certain_until(name: str, story: _Story, lost: Sequence[int]) -> tuple[int | None, str | None]:
    """The first number from which on a story is not certain, and why; None: it is to its end."""
    first = min(story.lines)
    if story.lines[first]["event"] != TrialProposed.name:
        return first, f"everything: what was tried in {name} is missing"
    ended = story.numbers(TrialEnded.name)
    last = ended[-1] if ended else float("inf")
    after = bisect_right(lost, first)
    if after < len(lost) and lost[after] < last:
        return lost[after], None
    return None, None


def _example(
    stories: Mapping[str, _Story], ends: Mapping[str, tuple[int | None, str | None]]
) -> list[Stage] | None:
    """The reports of a trial that is whole and was completed in one go."""
    for name, story in stories.items():
        if name != BASE_TRIAL and ends[name][0] is None and story.completed:
            return story.stages(float("inf"))
    return None


def _agrees(story: _Story, example: list[Stage] | None, name: str) -> bool:
    """Whether the reports that are left of a trial are all that it can have made."""
    made = story.stages(float("inf"))
    if name == BASE_TRIAL:
        return story.completed and bool(made)
    if example is None:
        return False
    return made == example if story.completed else made == example[: len(made)]


def _left(
    vouched: Vouched, ends: Mapping[str, tuple[int | None, str | None]], cut: Mapping[str, str]
) -> list[Line]:
    kept: list[Line] = []
    for number, line in vouched.lines.items():
        trial = line.get("trial")
        if cut and line["event"] in _OF_A_WHOLE:
            continue
        if line["event"] in _OF_ENDED and trial in cut:
            continue
        if line["event"] in _OF_TRIALS and isinstance(trial, str):
            end = ends[trial][0]
            if end is not None and number >= end:
                continue
        kept.append(line)
    return kept


def _stage(line: Line) -> Stage:
    report = line.get("report") or {}
    return int(report.get("task_index", -1)), float(report.get("fraction", 1.0))
