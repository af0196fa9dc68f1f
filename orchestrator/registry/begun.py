"""Which sweeps a storage folder holds, and the answer to a name that is none of theirs."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.system.wording import suggestion


def begun_sweeps(storage: Path) -> list[Path]:
    """Folders with a journal, the one that was begun first first."""
    if not storage.is_dir():
        return []
    journals = [folder / JOURNAL_NAME for folder in storage.iterdir() if folder.is_dir()]
    return [journal.parent for journal in sorted(filter(Path.is_file, journals), key=_begun)]


def no_sweep(name: str, storage: Path) -> str:
    """That there is no sweep of a name, for whoever asked for it: the nearest, and all there are.

    Args:
        name: The name, as it was asked for.
        storage: The storage folder.

    Returns:
        A message.
    """
    known = [folder.name for folder in begun_sweeps(storage)]
    return (
        f"No sweep {name!r} in {storage}.{suggestion(name, known)} "
        f"Sweeps there: {', '.join(known) or 'none'}."
    )


def _begun(journal: Path) -> tuple[float, str]:
    with journal.open("rb") as lines:
        first = lines.readline()
    found = re.search(rb'"time":\s*([0-9.]+)', first)
    return (float(found.group(1)) if found else 0.0, journal.parent.name)
