"""The events of a sweep, one class each: everything that a line of its journal can hold.

`Event.to_line` gives the line, `read_event` reads one. Fields that an earlier version did not write
have the default of their class, as have those that are null; fields of a later version are left
out, and an event of a later version is an `UnknownEvent`. NaN and infinity are written as null:
JSON has neither. docs/journal.md lists what each event holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from orchestrator.records.event import NAMED, ONLY_IF_SAID, STAMP, Event, Line, typed
from orchestrator.records.event_values import (
    EarlyStop,
    ExtensionSide,
    Finalist,
    SideScores,
    TaskScores,
)
from orchestrator.records.faults.fault_events import FaultSurvived, JournalRepaired, SetAside
from orchestrator.records.stage_report import StageReport

JOURNAL_VERSION = 1
"""The form of the journals that are written now; it rises when an old reader would misread one."""


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
    precision: dict[str, str] | None = field(default=None, metadata=ONLY_IF_SAID)
    """What `training.precision: auto` stands for in this sweep (`used`, as in `experiment`), and
    its `reason`; None where the file named a precision."""
    version: int = 1
    """The form of the journal, see `JOURNAL_VERSION`."""


@dataclass(frozen=True)
class SweepContinued(Event):
    """A driver goes on with a sweep that another had begun."""

    name = "sweep_continued"
    trials: int | None = None
    """How many there are to be; None where a budget alone bounds them."""
    retried: list[str] = field(default_factory=list[str])
    """Trials that start over."""
    base: dict[str, Any] = field(default_factory=dict[str, Any])
    """The base model, and where it is now."""
    code: dict[str, Any] = field(default_factory=dict[str, Any])
    packages: dict[str, Any] = field(default_factory=dict[str, Any])
    python: str = ""
    platform: str = ""
    sweep_id: str | None = field(default=None, metadata=ONLY_IF_SAID)
    """Given here where the opening has none."""
    time_budget: str | None = field(default=None, metadata=ONLY_IF_SAID)
    compute_budget: str | None = field(default=None, metadata=ONLY_IF_SAID)
    """What may be spent now, as the file has it."""


@dataclass(frozen=True)
class TrialProposed(Event):
    """A trial is to be run."""

    name = "trial_proposed"
    trial: str
    overrides: dict[str, Any] = field(default_factory=dict[str, Any], metadata=NAMED)
    """Dotted paths of the experiment and the trial's values."""
    by: str = ""
    """The searcher, or who else."""
    of: str | None = field(default=None, metadata=ONLY_IF_SAID)
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
    report: StageReport = field(metadata=typed(StageReport.from_document, StageReport.as_document))
    adapter: str | None = field(default=None, metadata=ONLY_IF_SAID)
    """What is kept of the trial after this task, relative to the sweep's folder; None after the
    last task, whose adapter `trial_ended` names, and where none is kept."""
    adapter_sha256: str | None = field(default=None, metadata=ONLY_IF_SAID)


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial is over."""

    name = "trial_ended"
    trial: str
    state: str
    """COMPLETE, FAILED or STOPPED."""
    reason: str = ""
    measures: dict[str, float | None] | None = field(default=None, metadata=NAMED)
    """By name, null where it could not be measured; None unless it is complete."""
    gain_interval: list[float] | None = None
    intervals: dict[str, list[float] | None] | None = field(default=None, metadata=NAMED)
    """Of the mean difference to each control."""
    adapter: str | None = None
    """Relative to the sweep's folder, as `log` is."""
    adapter_sha256: str | None = None
    log: str | None = None
    carried: str | None = field(default=None, metadata=ONLY_IF_SAID)
    """What a further task would begin from: the trained tensors and what the retention carries."""
    carried_sha256: str | None = field(default=None, metadata=ONLY_IF_SAID)
    carried_bytes: int | None = field(default=None, metadata=ONLY_IF_SAID)
    stop: EarlyStop | None = field(
        default=None,
        metadata=ONLY_IF_SAID | typed(EarlyStop.from_document, EarlyStop.as_document),
    )
    """Why it was stopped early; None where it was not, or by a budget or another scheduler."""


@dataclass(frozen=True)
class CellsScored(Event):
    """Cells of a trial's accuracy matrix were scored later, from an adapter that was kept."""

    name = "cells_scored"
    trial: str
    learnt: int
    """How many tasks it had learnt: the row of the matrix."""
    scores: dict[str, TaskScores] = field(
        default_factory=dict[str, TaskScores],
        metadata=typed(TaskScores.read_all, TaskScores.write_all),
    )
    """By task or probe."""
    unscored: dict[str, str] | None = field(default=None, metadata=ONLY_IF_SAID)
    """By task, why it could not be scored."""
    tasks: dict[str, dict[str, Any]] | None = field(default=None, metadata=ONLY_IF_SAID)
    """The task files of those tasks that are none of the sweep's, by name."""


@dataclass(frozen=True)
class TrialMeasured(Event):
    """A trial's measures from its whole accuracy matrix, on all examples."""

    name = "trial_measured"
    trial: str
    examples: dict[str, int] = field(default_factory=dict[str, int])
    """By task, how many there are."""
    measures: dict[str, float | None] = field(
        default_factory=dict[str, "float | None"], metadata=NAMED
    )
    """As in `trial_ended`, as are the intervals."""
    gain_interval: list[float] | None = None
    intervals: dict[str, list[float] | None] | None = field(default=None, metadata=NAMED)


@dataclass(frozen=True)
class BudgetSpent(Event):
    """What a sweep with a budget has spent since it began, written when a trial has ended."""

    name = "budget_spent"
    seconds: float = 0.0
    """While it ran."""
    core_seconds: float = 0.0
    """CPUs that its workers held, times the seconds that they held them; `gpu_seconds` likewise."""
    gpu_seconds: float = 0.0
    trials: float = 0.0
    """The work done: whole trials, and the shares done of those that have not ended."""


@dataclass(frozen=True)
class RequestTaken(Event):
    """What a person had asked of the sweep was done, or refused."""

    name = "request_taken"
    request: str = ""
    """Which request: the name of its file."""
    ask: str = ""
    """`stop` or `add`, a trial."""
    about: str | None = None
    """The trial that is stopped, or was added."""
    who: str = ""
    """`USER@HOST`."""
    reason: str = ""
    refused: str | None = field(default=None, metadata=ONLY_IF_SAID)
    """Why it was not done."""


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
    finalists: tuple[Finalist, ...] = field(
        default=(), metadata=typed(Finalist.read_all, Finalist.write_all)
    )
    """Trials repeated with fresh seeds."""
    compared: int | None = None
    """For the choice among how many trials the intervals allow; None: they do not."""
    intervals: dict[str, list[float] | None] = field(
        default_factory=dict[str, "list[float] | None"]
    )
    """Of the gain, by trial; all hold at once."""
    runner_up: str | None = None
    runner_up_interval: list[float] | None = None
    """Of the champion's mean score minus the runner-up's."""
    budget: dict[str, float] | None = field(default=None, metadata=ONLY_IF_SAID)
    """The budgets that ended the search before it had all of its trials, in seconds of `time`,
    `core` or `gpu`; None where none did."""
    seed_deviation: float | None = field(default=None, metadata=ONLY_IF_SAID)
    """The standard deviation of gains over the seeds of repetitions, pooled over all finalists, for
    which their intervals allow; None where none was repeated twice, or by an earlier version."""
    order_deviation: float | None = field(default=None, metadata=ONLY_IF_SAID)
    """The same between orders of the tasks; None where they do not differ or cannot be told from
    the seeds, which are then both in `seed_deviation`."""


@dataclass(frozen=True)
class ExtensionMeasured(Event):
    """What was gained and lost since the trial that the sweep goes on from, before its verdict."""

    name = "extension_measured"
    parent: dict[str, Any] = field(default_factory=dict[str, Any])
    """That trial: `sweep`, `sweep_id`, `trial`, `adapter_sha256`, `carried_sha256`, `learnt`."""
    earlier: list[str] = field(default_factory=list[str])
    """The tasks that it had learnt."""
    further: list[str] = field(default_factory=list[str])
    as_it_was: dict[str, float] = field(default_factory=dict[str, float])
    """Its scores by task, before anything more was learnt."""
    sides: dict[str, ExtensionSide] = field(
        default_factory=dict[str, ExtensionSide],
        metadata=typed(ExtensionSide.read_all, ExtensionSide.write_all),
    )
    """By trial, those that are only compared among them."""


@dataclass(frozen=True)
class TestRead(Event):
    """The test data were scored for a verdict, or for another preference than its."""

    name = "test_read"
    reading: int | None = None
    """1, 2, ...; None where the champion could not be scored: then `reference` and what follows
    are not written."""
    purpose: str = ""
    champion: str | None = None
    """The trial that is shown; the champion, unless a `preference` is named."""
    runner_up: str | None = None
    preference: str | None = field(default=None, metadata=ONLY_IF_SAID)
    """By which `champion` and `runner_up` were picked after the verdict; None: by the verdict."""
    examples: dict[str, int] = field(default_factory=dict[str, int])
    """By task, how many were scored."""
    sides: dict[str, SideScores] = field(
        default_factory=dict[str, SideScores],
        metadata=typed(SideScores.read_all, SideScores.write_all),
    )
    """By trial, the base among them."""
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
        stamp = {name: getattr(self, name) for name in STAMP} if self.n >= 0 else {}
        return {**stamp, "event": self.event, **self.held}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """The event of any line."""
        held = {k: v for k, v in line.items() if k not in {*STAMP, "event"}}
        return cls(line["event"], held, n=line.get("n", -1), time=line.get("time"))


EVENTS: tuple[type[Event], ...] = (
    SweepOpened, SweepContinued, TrialProposed, TrialStarted, StageReported, TrialEnded,
    CellsScored, TrialMeasured, BudgetSpent, RequestTaken, SetAside, FaultSurvived, JournalRepaired,
    SweepStopped, SweepEnded, ExtensionMeasured, TestRead, ChampionRegistered,
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
