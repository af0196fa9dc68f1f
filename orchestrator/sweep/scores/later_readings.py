"""Reading the test data of an ended sweep for another preference than its own; it is counted."""

from __future__ import annotations

from pathlib import Path

from orchestrator.base.errors import ModelError
from orchestrator.data.formats.placed_row import DataError
from orchestrator.records.errors import JournalError, TrackingError
from orchestrator.records.journal import Journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.task_files import TaskFileError
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.deciding.reading_sides import ReadingSides
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.mlflow_sync import MlflowSync
from orchestrator.sweep.protocols import Observer
from orchestrator.sweep.provenance import ChangedSweepError
from orchestrator.sweep.reading import Asked
from orchestrator.sweep.scores.readings import read_sides
from orchestrator.sweep.scores.reopened import as_recorded, reopened


def read_later(
    folder: Path, asked: Asked, observer: Observer, base: Path | None = None
) -> SweepState:
    """Score what another preference picks on the test data, in this process, and journal it.

    What an earlier reading has scored is not scored again. A trial that a reading shows already
    has no other one.

    Args:
        folder: The sweep's folder.
        asked: For whom they are read, and by which preference.
        observer: Who is told what happens.
        base: Where the base is now, if it was moved.

    Returns:
        What the journal says then.

    Raises:
        SweepError: If it cannot be done; one message for the user. Where the pick itself could not
            be scored, that is journalled with its reason, and no reading is counted.
    """
    try:
        with Journal(folder) as journal:
            state = SweepState.of(journal.lines)
            if state.reading_of(asked.pick) is not None:
                return state
            loaded = as_recorded(state, base)
            ledger = reopened(journal, loaded, observer).ledger
            sides = ReadingSides(ledger, KeptWork(ledger))
            wanted = sides.to_be_read(asked)
            observer.note(f"reading the test examples, reading {state.next_reading}: "
                          f"{', '.join(wanted) or 'all were scored before'}")  # fmt: skip
            with ledger.cards.following(journal.lines, observer.note):
                sides.record(asked, read_sides(wanted, ledger.data) if wanted else {})
            projection = MlflowSync(loaded.experiment, folder.parent, journal, observer)
            complaint = projection.finish(just_decided=False)
            if complaint:
                observer.note(complaint)
            state = SweepState.of(journal.lines)
    except (
        JournalError, DataError, ModelError, ChangedSweepError, TrackingError, TaskFileError,
    ) as error:  # fmt: skip
        raise SweepError(str(error)) from None
    if state.reading_of(asked.pick) is None:
        reasons = state.readings[-1].unread.items()
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons)
        raise SweepError(f"The test examples could not be scored: {why.rstrip('.')}.")
    return state
