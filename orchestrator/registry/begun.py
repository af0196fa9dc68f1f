"""Which sweeps a storage folder holds."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.records.journal_lines import JOURNAL_NAME


def begun_sweeps(storage: Path) -> list[Path]:
    """Folders with a journal, the one that was begun first first."""
    if not storage.is_dir():
        return []
    journals = [folder / JOURNAL_NAME for folder in storage.iterdir() if folder.is_dir()]
    return [journal.parent for journal in sorted(filter(Path.is_file, journals), key=_begun)]


def _begun(journal: Path) -> tuple[float, str]:
    with journal.open("rb") as lines:
        first = lines.readline()
    found = re.search(rb'"time":\s*([0-9.]+)', first)
    return (float(found.group(1)) if found else 0.0, journal.parent.name)
