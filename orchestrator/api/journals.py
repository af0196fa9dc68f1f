"""Sweeps and trials by the names that the user gives."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.records.event import Line
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.system.user_error import UsageError
from orchestrator.system.wording import suggestion


def begun_sweeps(storage: Path) -> list[Path]:
    """Folders with a journal, the one that was begun first first."""
    if not storage.is_dir():
        return []
    journals = [SweepFolder(folder).journal for folder in storage.iterdir() if folder.is_dir()]
    return [journal.parent for journal in sorted(filter(Path.is_file, journals), key=_begun)]


def _begun(journal: Path) -> tuple[float, str]:
    with journal.open("rb") as lines:
        first = lines.readline()
    found = re.search(rb'"time":\s*([0-9.]+)', first)
    return (float(found.group(1)) if found else 0.0, journal.parent.name)


def read_sweep(sweep_name: str, storage: Path) -> tuple[Path, list[Line]]:
    """A sweep's folder and journal; a name that is not there is a `UsageError`."""
    folder = storage / sweep_name
    lines = read_journal(folder)
    if not lines:
        known = [found.name for found in begun_sweeps(storage)]
        raise UsageError(
            f"No sweep {sweep_name!r} in {storage}.{suggestion(sweep_name, known)} "
            f"Sweeps there: {', '.join(known) or 'none'}."
        )
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
