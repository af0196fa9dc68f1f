"""The folder of a sweep: where it is in the storage folder, and where in it things are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePath

from orchestrator.records.errors import JournalError
from orchestrator.records.journal_lines import JOURNAL_NAME, read_journal
from orchestrator.records.trial_record import TrialRecord


def log_path(trial: TrialRecord, folder: Path) -> Path:
    """Where the trial's log is, or would be."""
    usual = folder / "trials" / trial.name / "log.txt"
    # Earlier versions wrote where it was then, and the folder may have been moved.
    written = folder / trial.log if trial.log else usual
    return written if written.is_relative_to(folder) else usual


def path_within(folder: Path, named: str) -> Path:
    """The place of a folder that a journal names.

    Args:
        folder: The sweep's folder.
        named: What the journal says, relative to it.

    Returns:
        The path.

    Raises:
        JournalError: If it leads out of the folder: the journal may be anybody's.
    """
    if PurePath(named).is_absolute() or ".." in PurePath(named).parts:
        raise JournalError(
            f"The journal of {folder} names the path {named[:200]!r}, which does not lie in the "
            "sweep's folder. No sweep writes that, so it is not used. Take the sweep from where it "
            "was made."
        )
    return folder / named


def sweep_folders(storage: Path) -> list[Path]:
    """The sweeps in a storage folder, oldest first."""
    found = [path.parent for path in storage.glob(f"*/{JOURNAL_NAME}")]
    return sorted(found, key=lambda folder: (read_journal(folder) or [{}])[0].get("time", 0.0))


def sweep_folder(storage: Path, name: str, *, new: bool) -> Path:
    """The folder of the last sweep of a name, or of the next one.

    Args:
        storage: The storage folder.
        name: The experiment's name.
        new: Whether another sweep is wanted.

    Returns:
        `<storage>/<name>`, or `<storage>/<name>-2` and so on; never the folder of a sweep of
        another name, which may be `<name>-2` itself.
    """
    pattern = re.compile(rf"{re.escape(name)}(?:-([2-9]|[1-9]\d+))?")
    numbers = [
        int(match[1] or 1)
        for path in storage.glob(f"{name}*/{JOURNAL_NAME}")
        if (match := pattern.fullmatch(path.parent.name)) and _name_in(path) in {name, None}
    ]
    if numbers and not new:
        return storage / _numbered(name, max(numbers))
    number = max(numbers, default=0) + 1
    while (storage / _numbered(name, number) / JOURNAL_NAME).is_file():
        number += 1
    return storage / _numbered(name, number)


def _name_in(journal: Path) -> str | None:
    """The name of the experiment that a journal was opened for; None where it does not say."""
    with journal.open("rb") as file:
        first = file.readline()
    try:
        return str(json.loads(first)["experiment"]["name"])
    except (ValueError, KeyError, TypeError):  # empty or damaged, which opening it says
        return None


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"
