"""The events of what went wrong and was survived."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from orchestrator.records.event import Event

FAULTS: Final = {
    "journal_torn": "the journal's last line was cut short",
    "member_died": "a member of the pool died, and was replaced",
    "member_hung": "a member of the pool came no further, and was replaced",
    "trial_died": "its process died, and was started again",
    "trial_hung": "its workers came no further, and were replaced",
    "workers_died": "workers died and were started again",
    "mlflow_away": "MLflow could not be used",
}
"""The kinds of faults, and what each is in words."""


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
class FaultSurvived(Event):
    """Something broke, and the sweep went on."""

    name = "fault_survived"
    what: str = ""
    """Its kind, see `FAULTS`."""
    where: str = ""
    """What broke: a member of the pool, a trial, MLflow's address, the journal."""
    because: str = ""
    lost: dict[str, float] = field(default_factory=dict[str, float])
    """By trial whose work was lost, the seconds since its last report, which are done again."""
    since: float | None = None
    """When it began, in seconds since the epoch; None where it is a moment."""
    until: float | None = None


@dataclass(frozen=True)
class JournalRepaired(Event):
    """Lines of this journal were damaged; what could be kept was kept."""

    name = "journal_repaired"
    kept_as: str = ""
    """The damaged file, relative to the sweep's folder."""
    lost: list[int] = field(default_factory=list[int])
    """The numbers that the lost lines had, from 0."""
    cut: dict[str, str] = field(default_factory=dict[str, str])
    """By trial, what of it is not certain any more, so that it is run again."""
    recovered: dict[str, int] = field(default_factory=dict[str, int])
    """By trial, how many reports were taken from its last whole checkpoint."""
