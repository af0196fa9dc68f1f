"""Taking a journal into the index: its new lines are found, and the trials that they are of folded.

A line that is appended costs the lines of its trial and those that all trials share, however many
trials there are.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from orchestrator.records.errors import JournalError
from orchestrator.records.events import TestRead
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.parts.journal_scan import OF_TRIALS, SCORED_LATER, Span, scanned
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.registry.index import sweep_rows
from orchestrator.registry.index.counting import counted
from orchestrator.registry.index.fields import FieldTable
from orchestrator.registry.index.journal_fold import Folded, SweepFacts, folded_trials, sweep_facts
from orchestrator.registry.index.journal_place import (
    Known,
    first_line_hash,
    hashed,
    known_journals,
    last_read,
)
from orchestrator.registry.index.pruned_adapters import mark_pruned, noted_bytes
from orchestrator.registry.index.sweep_values import sweep_document
from orchestrator.registry.index.trial_document import packed
from orchestrator.registry.index.trial_values import test_gains
from orchestrator.system.wording import one_line

_NOT_OURS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What values of the wrong type or size come to."""


def take(database: sqlite3.Connection, folder: Path) -> None:
    """Take what a journal says and the index does not hold yet.

    Args:
        database: The index, in a transaction.
        folder: The sweep's folder. A journal that cannot be read is remembered as such.

    Raises:
        sqlite3.Error: The index cannot be written.
    """
    known = known_journals(database).get(folder.name)
    try:
        file = (folder / JOURNAL_NAME).open("rb")
    except OSError:  # it was removed just now, or may not be read
        if known is not None:
            sweep_rows.forget(database, known.id)
        return
    with file:
        before = None if known is None else last_read(file, known)
        if known is not None and before is None:
            sweep_rows.forget(database, known.id)
            known = None
        try:
            _Taking(database, folder, file, known).take(before or b"")
        except JournalError as error:
            told, path = str(error), str(folder / JOURNAL_NAME)
            _damaged(database, folder, file, told if path in told else f"{path}: {told}")
        except _NOT_OURS as error:
            # One journal of another program must not hide all other sweeps.
            problem = (
                f"{folder / JOURNAL_NAME} holds what no version of this program writes "
                f"({one_line(error)}). Take the sweep from where it was made."
            )
            _damaged(database, folder, file, problem)


def _damaged(database: sqlite3.Connection, folder: Path, file: IO[bytes], problem: str) -> None:
    known = known_journals(database).get(folder.name)
    if known is not None:
        sweep_rows.forget(database, known.id)
    sweep = sweep_rows.begin(database, folder.name)
    sweep_rows.put(database, sweep, {**_stamp(folder, file), "problem": problem})


def _stamp(folder: Path, file: IO[bytes]) -> dict[str, Any]:
    """What a journal's file is now, and how long the notes are of what was pruned."""
    now = os.fstat(file.fileno())
    return {
        "inode": now.st_ino, "mtime": now.st_mtime_ns, "bytes": now.st_size,
        "first": first_line_hash(file), "pruned": noted_bytes(folder),
    }  # fmt: skip


class _Taking:
    """One journal, taken from where it was left."""

    def __init__(
        self, database: sqlite3.Connection, folder: Path, file: IO[bytes], known: Known | None
    ) -> None:
        self._database, self._path, self._file = database, folder / JOURNAL_NAME, file
        self._known, self._folder = known, folder

    def take(self, before: bytes) -> None:
        known = self._known
        # Looked at first: what is appended meanwhile is a change that the next look finds.
        stamp = _stamp(self._folder, self._file)
        start, number = (known.read, known.lines) if known else (0, 0)
        found = scanned(self._file, self._path, start=start, number=number, before=before)
        spans = list(found)
        if not spans and known is None:
            return  # nothing was written yet
        sweep = known.id if known else sweep_rows.begin(self._database, self._folder.name)
        sweep_rows.put(self._database, sweep, stamp)
        if spans:
            sweep_rows.add_lines(self._database, sweep, spans)
            self._take_lines(sweep, spans)
        if known is not None and known.pruned != stamp["pruned"]:
            mark_pruned(self._database, sweep, self._folder)

    def _take_lines(self, sweep: int, spans: list[Span]) -> None:
        shared = sweep_rows.spans_of(self._database, sweep, ["", BASE_TRIAL])
        restarted = [s.n for s in spans if s.event == "sweep_continued"]
        touched = max(
            [self._known.touched if self._known else -1]
            + [s.n for s in spans if s.event in OF_TRIALS - SCORED_LATER]
        )
        sweep_read = sweep_facts(self._file, self._path, shared, touched=touched)
        names = {s.trial for s in spans if s.trial}
        if self._known is None or BASE_TRIAL in names:
            # What the untouched base scores is part of every trial's matrix.
            own = [s for s in sweep_rows.spans_of(self._database, sweep, None) if s.trial]
        else:
            names |= {name for n, name in sweep_read.restarts if n in restarted}
            own = sweep_rows.spans_of(self._database, sweep, sorted(names))
        own = [span for span in own if span.trial != BASE_TRIAL]
        put_trials(self._database, sweep, folded_trials(self._file, self._path, sweep_read, own))
        mark_pruned(self._database, sweep, self._folder, sorted({span.trial for span in own}))
        self._finish(sweep, sweep_read, spans[-1], touched)

    def _finish(self, sweep: int, read: SweepFacts, last: Span, touched: int) -> None:
        self._file.seek(last.start)
        raw = self._file.read(last.length + 1)
        state = read.state
        state.changed = last.time
        document = sweep_document(state, counted(self._database, sweep, state))
        before = sweep_rows.document(self._database, sweep)
        if [before.get(key) for key in ("front", "champion")] != [state.front, state.champion]:
            _mark(self._database, sweep, state.front, state.champion)
        _mark_tested(self._database, sweep, state.readings)
        sweep_rows.put(
            self._database,
            sweep,
            {
                "read": last.start + len(raw), "lines": last.n + 1, "last_start": last.start,
                "last": hashed(raw), "touched": touched, "experiment": state.name,
                "kind": state.kind, "base": document["base"], "base_sha256": state.base_sha256,
                "begun": state.opened, "changed": state.changed,
                "core_seconds": document["core_seconds"], "hypervolume": document["hypervolume"],
                "test_gain": document["test_gain"], "document": json.dumps(document),
            },
        )  # fmt: skip


def put_trials(database: sqlite3.Connection, sweep: int, trials: Iterable[Folded]) -> None:
    """Write trials into an index, in place of what it held of them.

    Args:
        database: The index, in a transaction.
        sweep: The sweep's number.
        trials: The trials.
    """
    table, first = FieldTable(database), dict[int, tuple[int, int]]()
    statement = ""
    for trial in trials:
        columns = {"sweep": sweep, "number": trial.number, **trial.values.words}
        statement = statement or _upsert(list(columns))
        ((number,),) = database.execute(statement, list(columns.values())).fetchall()
        database.execute(
            "REPLACE INTO trial_document (trial, place, document) VALUES (?, ?, ?)",
            (number, trial.values.adapter, packed(trial.values.document)),
        )
        for place, field in enumerate(table.put(number, trial.values.values)):
            here = (trial.number, place)
            first[field] = min(first.get(field, here), here)
    database.executemany(
        "INSERT INTO sweep_field (sweep, field, number, place) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET number = excluded.number, place = excluded.place "
        "WHERE (excluded.number, excluded.place) < (number, place)",
        [(sweep, field, *place) for field, place in first.items()],
    )


def _upsert(columns: list[str]) -> str:
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return (
        f"INSERT INTO trial ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT (sweep, name) DO UPDATE SET {changed} RETURNING id"
    )


def _mark(
    database: sqlite3.Connection, sweep: int, front: Iterable[str], champion: str | None
) -> None:
    """Say of a sweep's trials which are on the front, and which has won."""
    database.execute(
        "UPDATE trial SET on_front = 0, champion = 0 WHERE sweep = ? AND (on_front OR champion)",
        (sweep,),
    )
    for column, names in (("on_front", front), ("champion", [champion])):
        database.executemany(
            f"UPDATE trial SET {column} = 1 WHERE sweep = ? AND name = ?",
            [(sweep, name) for name in names if name is not None],
        )


def _mark_tested(database: sqlite3.Connection, sweep: int, readings: Iterable[TestRead]) -> None:
    """Say of a sweep's trials what the test data say of them."""
    database.executemany(
        "UPDATE trial SET test_gain = :test_gain, test_gain_low = :test_gain_low, "
        "test_gain_high = :test_gain_high WHERE sweep = :sweep AND name = :name",
        [{"sweep": sweep, "name": name, **found} for name, found in test_gains(readings).items()],
    )
