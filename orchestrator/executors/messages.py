"""What a trial says to the driver, and what a pool's mailbox says to both of its sides.

A trial's words may go through Ray Train, which takes dictionaries:
`to_metrics` and `from_metrics` are the one place where they become such and are read again. Actors
of Ray pickle them as they are. Light processes import this module, so it loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from orchestrator.records.stage_report import StageReport

if TYPE_CHECKING:
    from orchestrator.executors.job import Job
    from orchestrator.loop.trial_checkpoints import SetAside
    from orchestrator.loop.work_meter import Progress


@dataclass(frozen=True)
class Ready:
    """A trial's model and engine stand; it begins to learn."""

    worker_pid: int
    """The worker's process."""
    reports: tuple[StageReport, ...] = ()
    """What was reported up to the checkpoint that it goes on from: a worker that was killed may
    have left one whose report never arrived."""
    checkpoint_path: Path | None = None
    """That checkpoint."""


@dataclass(frozen=True)
class Reported:
    """A trial has come to a rung of a task, or to its end."""

    report: StageReport
    checkpoint_path: Path | None = None
    """The checkpoint that belongs to it; None where the executor keeps none."""


@dataclass(frozen=True)
class Progressed:
    """How far a trial is. Said by the executor `local` alone; others write it into a file."""

    progress: Progress


@dataclass(frozen=True)
class Finished:
    """A trial has learnt all there is to learn."""

    reports: tuple[StageReport, ...] = ()
    """All of them once more: one may have been overtaken by the end of the trial."""
    checkpoint_path: Path | None = None


@dataclass(frozen=True)
class Failed:
    """A trial cannot go on, and would not if it were started again."""

    reason: str
    """In one line."""
    details: str = ""
    """Such as a traceback; empty where the reason says all, or `log` holds it."""
    log: str | None = None
    """The file that holds the details."""


@dataclass(frozen=True)
class Lost:
    """No member of the pool is left to run a trial, which is not to blame."""

    reason: str


@dataclass(frozen=True)
class Paused:
    """A trial is saved where it is, and its worker has let go of it: another one goes on."""


@dataclass(frozen=True)
class WorkSetAside:
    """Something foreign or damaged lay where a trial's own work should be."""

    what: Path
    kept_as: Path
    because: str

    @classmethod
    def of(cls, found: SetAside) -> WorkSetAside:
        """The message for what was found beside checkpoints."""
        return cls(found.what, found.kept_as, found.because)


Message: TypeAlias = Ready | Reported | Finished | Failed | Lost | Paused | WorkSetAside
"""What a trial says, whichever executor runs it."""
MessageHere: TypeAlias = Message | Progressed
"""What a trial in the driver's own process says."""

_NAMES: dict[type[Any], str] = {
    Ready: "ready",
    Reported: "stage",
    Finished: "finished",
    Failed: "failed",
    Lost: "lost",
    Paused: "paused",
    WorkSetAside: "set_aside",
}
_KINDS = {name: kind for kind, name in _NAMES.items()}


def to_metrics(message: Message) -> dict[str, Any]:
    """A message as Ray Train takes it.

    Args:
        message: What a trial says.

    Returns:
        Its `kind` and its fields, those that say nothing left out.
    """
    said = {f.name: getattr(message, f.name) for f in fields(message)}
    return {
        "kind": _NAMES[type(message)],
        **{name: _plain(value) for name, value in said.items() if value not in (None, (), "")},
    }


def from_metrics(metrics: Mapping[str, Any]) -> Message | None:
    """The message of `to_metrics`, whatever Ray has put beside it.

    Args:
        metrics: What was reported to Ray Train.

    Returns:
        The message; None where the metrics hold none.
    """
    kind = _KINDS.get(metrics.get("kind", ""))
    if kind is None:
        return None
    return kind(**{
        f.name: _READERS.get(f.name, _as_it_is)(metrics[f.name])
        for f in fields(kind)
        if metrics.get(f.name) is not None
    })  # fmt: skip


def _plain(value: Any) -> Any:
    match value:
        case StageReport():
            return value.as_document()
        case tuple():
            return [_plain(each) for each in value]
        case Path():
            return str(value)
        case _:
            return value


_Value = TypeVar("_Value")


def _as_it_is(value: _Value) -> _Value:
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "report": StageReport.from_document,
    "reports": lambda documents: tuple(map(StageReport.from_document, documents)),
    "checkpoint_path": Path,
    "what": Path,
    "kept_as": Path,
}
"""How the fields are read that are no plain values."""


@dataclass(frozen=True)
class News:
    """What a mailbox says of a trial."""

    messages: tuple[Message, ...] = ()
    """What the member said since the trial last asked."""
    gone: str | None = None
    """Why nothing more will come from this member."""
    absent: bool = False
    """Whether the member has given no sign of life for long."""
    waits: bool = False
    """Whether the job has yet to begin and might as well do so elsewhere."""


@dataclass(frozen=True)
class Todo:
    """What a mailbox says to its member."""

    join: tuple[Job, ...] = ()
    """Jobs to begin."""
    drop: tuple[str, ...] = ()
    """Trials to forget."""
    close: bool = False
    """Whether to end."""
    all_there: bool = False
    """Whether no job comes before a trial that runs has said something."""
    save: bool = False
    """Whether to save every trial where it is, and let go of it."""
