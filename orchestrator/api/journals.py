"""Sweeps and trials by the names that the user gives."""

from __future__ import annotations

from pathlib import Path

from orchestrator.records.event import Line
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.registry.begun import no_sweep
from orchestrator.system.user_error import UsageError
from orchestrator.system.wording import suggestion


def read_sweep(sweep_name: str, storage: Path) -> tuple[Path, list[Line]]:
    """A sweep's folder and journal; a name that is not there is a `UsageError`."""
    folder = storage / sweep_name
    lines = read_journal(folder)
    if not lines:
        raise UsageError(no_sweep(sweep_name, storage))
    return folder, lines


def find_trial(view: SweepState, name: str) -> TrialRecord:
    """A trial of a sweep by its name; one that is not there is a `UsageError`."""
    if name not in view.everything:
        known = list(view.everything)
        raise UsageError(
            f"No trial {name!r} in sweep {view.name!r}.{suggestion(name, known)} "
            f"Its trials: {', '.join(known) or 'none yet'}."
        )
    return view.everything[name]
