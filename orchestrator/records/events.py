"""The events of a sweep, one class each: everything that a line of its journal can hold.

`Event.to_line` gives the line, `read_event` reads one. Fields that an earlier version did not write
have the default of their class, as have those that are null; fields of a later version are left
out, and an event of a later version is an `UnknownEvent`. NaN and infinity are written as null:
JSON has neither. docs/journal.md lists what each event holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Self, TypeAlias, cast

from orchestrator.records.errors import JournalError
from orchestrator.records.stage_report import StageReport

Line: TypeAlias = dict[str, Any]
"""A line of a journal as JSON has it."""

JOURNAL_VERSION = 1
"""The form of the journals that are written now; it rises when an old reader would misread one."""

_STAMP = ("n", "time")
_ONLY_IF_SAID = {"written": "only where it is not None"}


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
        stamp = {name: getattr(self, name) for name in _STAMP} if self.n >= 0 else {}
        return {**stamp, "event": self.name, **self._content()}

    def _content(self) -> dict[str, Any]:
        """What the line holds of the event itself."""
        found = {f.name: (f, getattr(self, f.name)) for f in fields(self) if f.name not in _STAMP}
        return {
            name: value for name, (f, value) in found.items() if value is not None or not f.metadata
        }

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """The event of a line.

        Args:
            line: One whose `event` is the `name` of this class.

        Returns:
            The event, with defaults for what the line does not hold.

        Raises:
            JournalError: If something is missing that no version has left out.
        """
        held = {f.name: line[f.name] for f in fields(cls) if line.get(f.name) is not None}
        lacking = [f.name for f in fields(cls) if f.name not in held and not _has_default(f)]
        if lacking:
            raise JournalError(
                f"Line {line.get('n')} of the journal, `{line['event']}`, lacks "
                f"{', '.join(f'`{name}`' for name in lacking)}."
            )
        return cls(**held)


def _has_default(one: Field[Any]) -> bool:
    return one.default is not MISSING or one.default_factory is not MISSING


@dataclass(frozen=True)
class SweepOpened(Event):
    """A sweep begins; always the first line."""

    name = "sweep_opened"
    sweep: str = ""
    """The name of its folder."""
    sweep_id: str = ""
    """What no other sweep shares; empty before sweeps had one."""
    kind: str = "sweep"
    """`sweep`, or `run` of a single trial."""
    experiment: dict[str, Any] = field(default_factory=dict[str, Any])
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """The task files of tasks and probes, by name."""
    yaml: str = ""
    """The experiment file as it was written."""
    origin: str = ""
    """Where that file lay."""
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])
    """`base`, `data`, `code`, `packages`, `python`, `platform`."""
    controls: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """By task, what is known without a model."""
    version: int = 1
    """The form of the journal, see `JOURNAL_VERSION`."""


@dataclass(frozen=True)
class SweepContinued(Event):
    """A driver goes on with a sweep that another had begun."""

    name = "sweep_continued"
    trials: int | None = None
    """How many there are to be."""
    retried: list[str] = field(default_factory=list[str])
    """Trials that start over."""
    base: dict[str, Any] = field(default_factory=dict[str, Any])
    """The base model, and where it is now."""
    code: dict[str, Any] = field(default_factory=dict[str, Any])
    packages: dict[str, Any] = field(default_factory=dict[str, Any])
    python: str = ""
    platform: str = ""
    sweep_id: str | None = field(default=None, metadata=_ONLY_IF_SAID)
    """Given here where the opening has none."""


@dataclass(frozen=True)
class TrialProposed(Event):
    """A trial is to be run."""

    name = "trial_proposed"
    trial: str
    overrides: dict[str, Any] = field(default_factory=dict[str, Any])
    """Dotted paths of the experiment and the trial's values."""
    by: str = ""
    """The searcher, or who else."""
    of: str | None = field(default=None, metadata=_ONLY_IF_SAID)
    """The finalist that it repeats with a fresh seed."""


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial starts."""

    name = "trial_started"
    trial: str
    attempt: int = 1
    """From 1; a continued sweep starts a trial again."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    """With which it is made: of packages, Python, platform and code."""


@dataclass(frozen=True)
class StageReported(Event):
    """A trial has come to a rung of a task, or to its end."""

    name = "stage_report"
    trial: str
    report: StageReport

    def _content(self) -> dict[str, Any]:
        return {"trial": self.trial, "report": self.report.as_document()}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """The event of a line, see `Event.from_line`."""
        report = line.get("report")
        read = None if report is None else StageReport.from_document(report)
        return super().from_line({**line, "report": read})


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial is over."""

    name = "trial_ended"
    trial: str
    state: str
    """COMPLETE, FAILED or STOPPED."""
    reason: str = ""
    measures: dict[str, float | None] | None = None
    """By name, null where it could not be measured; None unless it is complete."""
    gain_interval: list[float] | None = None
    intervals: dict[str, list[float] | None] | None = None
    """Of the mean difference to each control."""
    adapter: str | None = None
    """Relative to the sweep's folder, as `log` is."""
    adapter_sha256: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class SetAside(Event):
    """Something foreign or damaged was found; it is kept under another name, and not used."""

    name = "set_aside"
    trial: str
    what: str = ""
    """Relative to the sweep's folder, as `kept_as` is."""
    kept_as: str = ""
    because: str = ""


@dataclass(frozen=True)
class SweepStopped(Event):
    """A sweep was given up for now."""

    name = "sweep_stopped"
    reason: str = ""
    trials: list[str] = field(default_factory=list[str])
    """Those that failed."""


@dataclass(frozen=True)
class SweepEnded(Event):
    """The verdict."""

    name = "sweep_ended"
    front: list[str] = field(default_factory=list[str])
    champion: str | None = None
    reason: str = ""
    finalists: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Trials repeated with fresh seeds: `trial`, `repeats`, `mean` and `spread` by measure."""
    compared: int | None = None
    """For the choice among how many trials the intervals allow; None: they do not."""
    intervals: dict[str, list[float] | None] = field(
        default_factory=dict[str, "list[float] | None"]
    )
    """Of the gain, by trial; all hold at once."""
    runner_up: str | None = None
    runner_up_interval: list[float] | None = None
    """Of the champion's mean score minus the runner-up's."""


@dataclass(frozen=True)
class TestRead(Event):
    """The test data were scored for a verdict."""

    name = "test_read"
    reading: int | None = None
    """1, 2, ...; None where the champion could not be scored: then `reference` and what follows
    are not written."""
    purpose: str = ""
    champion: str | None = None
    runner_up: str | None = None
    examples: dict[str, int] = field(default_factory=dict[str, int])
    """By task, how many were scored."""
    sides: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """By trial, the base among them: `row`, `metrics`, `per_example`."""
    unread: dict[str, str] = field(default_factory=dict[str, str])
    """Why a trial could not be scored."""
    reference: str = ""
    """What `gain` is over, in words."""
    controls: dict[str, list[float | None]] = field(default_factory=dict[str, "list[float | None]"])
    """Scores by task of `majority` and `head_only`."""
    accuracy: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    """By trial, as are `gain`, its interval and the intervals over each control."""
    gain: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    gain_intervals: dict[str, list[float] | None] = field(
        default_factory=dict[str, "list[float] | None"]
    )
    intervals: dict[str, dict[str, list[float] | None]] = field(
        default_factory=dict[str, "dict[str, list[float] | None]"]
    )
    runner_up_interval: list[float] | None = None

    def _content(self) -> dict[str, Any]:
        content = super()._content()
        if self.reading is not None:
            return content
        return {name: value for name, value in content.items() if name not in _OF_A_NUMBERED}


_OF_A_NUMBERED = frozenset(
    ("reference", "controls", "accuracy", "gain", "gain_intervals", "intervals",
     "runner_up_interval")
)  # fmt: skip


@dataclass(frozen=True)
class ChampionRegistered(Event):
    """The champion is in the model registry."""

    name = "champion_registered"
    trial: str
    model: str
    version: str | None = None
    """Of the model."""


@dataclass(frozen=True)
class UnknownEvent(Event):
    """An event of a later version."""

    name = ""
    event: str
    """What its line calls it."""
    held: dict[str, Any] = field(default_factory=dict[str, Any])
    """Everything that its line holds."""

    def to_line(self) -> Line:
        """The line, as it was."""
        stamp = {name: getattr(self, name) for name in _STAMP} if self.n >= 0 else {}
        return {**stamp, "event": self.event, **self.held}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """The event of any line."""
        held = {k: v for k, v in line.items() if k not in {*_STAMP, "event"}}
        return cls(line["event"], held, n=line.get("n", -1), time=line.get("time"))


EVENTS: tuple[type[Event], ...] = (
    SweepOpened, SweepContinued, TrialProposed, TrialStarted, StageReported, TrialEnded, SetAside,
    SweepStopped, SweepEnded, TestRead, ChampionRegistered,
)  # fmt: skip
"""Every event that this version writes."""

_BY_NAME = {kind.name: kind for kind in EVENTS}


def read_event(line: Mapping[str, Any]) -> Event:
    """The event that a line of a journal holds, whichever version wrote it.

    Args:
        line: The line.

    Returns:
        The event; an `UnknownEvent` where this version has none of that name.

    Raises:
        JournalError: If something is missing that no version has left out.
    """
    return _BY_NAME.get(line["event"], UnknownEvent).from_line(line)


def read_events(lines: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """The events of some lines, see `read_event`."""
    return map(read_event, lines)


def without_nan(value: Any) -> Any:
    """The same document with every NaN and infinity replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): without_nan(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in cast("list[Any]", value)]
    return value
