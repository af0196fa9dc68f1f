"""Repairing a sweep whose journal is damaged: what can be kept is kept, the rest is said.

The damaged file is set aside, never removed. The journal is written again from the lines that are
as they were, and from the last whole checkpoints of trials that have not ended; MLflow follows the
journal. The same command then goes on with the sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.loop.trial_checkpoints import furthest_first
from orchestrator.loop.trial_state import STATE_FILE, read_state
from orchestrator.records.cards.card_files import write_cards
from orchestrator.records.errors import JournalError
from orchestrator.records.event import STAMP, Line
from orchestrator.records.events import JournalRepaired, StageReported, UnknownEvent
from orchestrator.records.faults.kept_stories import kept_stories
from orchestrator.records.faults.vouched_lines import vouched_lines
from orchestrator.records.journal import Journal
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.sweep.continuation import without_journal
from orchestrator.system.durable import copy_file, put
from orchestrator.system.file_lock import try_lock
from orchestrator.system.formatting import count
from orchestrator.system.seals import aside_name, content_hash, file_hashes, flaw, read_seal
from orchestrator.system.stores.mirror import mirror_of


@dataclass(frozen=True)
class Repair:
    """What was done."""

    journal: JournalRepaired | None
    """What was done to the journal; None where it was whole."""
    lines: int
    """How many lines it has now."""
    unknown: list[str]
    """Trials that have left something, of which the journal says nothing."""


def repair_journal(folder: Path, *, note: Callable[[str], None]) -> Repair:
    """Make a sweep's journal whole, where it is not.

    Args:
        folder: The sweep's.
        note: Told what is done.

    Returns:
        What was done.

    Raises:
        JournalError: If another process runs the sweep, or nothing can be built on what is left.
    """
    if (mirror := mirror_of(folder)) is not None:
        raise JournalError(
            f"{folder.name} is kept in {mirror.address}, and journals in a store are not repaired: "
            "its numbered objects are written once and never changed. Restore those that are "
            "missing or damaged (a bucket with versions has them), or start another sweep with "
            "--new. Nothing was changed."
        )
    inside, found = SweepFolder(folder), None
    if not inside.journal.is_file() or not inside.journal.stat().st_size:
        raise JournalError(without_journal(folder))
    with inside.journal.open("rb") as held:
        if not try_lock(held, inside.journal):
            raise JournalError(
                f"Another process is running the sweep in {folder}. Wait for it, or stop it."
            )
        try:
            lines = read_journal(folder)
        except JournalError as error:
            note(str(error).partition(f"{inside.journal}: ")[2].partition(" Nothing was ")[0])
            found = _rebuilt(inside, note)
            lines = read_journal(folder)
    known = {str(line.get("trial")) for line in lines}
    left = {path.name for place in (inside.trials, inside.ray) for path in _folders(place)}
    unknown = sorted(left - known - {inside.members.name, inside.readings.name})
    return Repair(found, len(lines), unknown)


def _rebuilt(inside: SweepFolder, note: Callable[[str], None]) -> JournalRepaired:
    content = inside.journal.read_bytes()
    vouched = vouched_lines(content)
    if 0 not in vouched.lines:
        raise JournalError(
            f"{inside.journal}: its first line is damaged, which says what was asked for and which "
            f"sweep this is; {count(len(vouched.lines), 'line')} after it can still be read, and "
            "nothing can be built on them. Nothing was changed. Restore the file from a copy, or "
            "start another sweep with --new."
        )
    kept = kept_stories(vouched)
    aside = aside_name(inside.journal)
    copy_file(inside.journal, aside)
    note(f"the damaged journal is kept as {aside.name}")
    half = inside.path / f".repair-{aside.name}"
    half.mkdir(exist_ok=True)
    fresh = half / inside.journal.name
    fresh.unlink(missing_ok=True)
    times = iter([line.get("time") for line in kept.lines])
    with Journal(half, clock=lambda: _time(next(times, None))) as journal:
        for line in kept.lines:
            # As it is: another version may have written what this one does not know.
            said = {key: value for key, value in line.items() if key not in {*STAMP, "event"}}
            journal.append(UnknownEvent(line["event"], said))
        recovered: dict[str, int] = {}
        for trial, reports in _in_checkpoints(inside, kept.lines):
            recovered[trial] = len(reports)
            for event in reports:
                journal.append(event)
        event = journal.append(
            JournalRepaired(inside.relative(aside), list(vouched.lost), kept.cut, recovered)
        )
    put(fresh, inside.journal)
    half.rmdir()
    return event


def rebuild_mlflow(folder: Path, repair: Repair, *, note: Callable[[str], None]) -> None:
    """Let MLflow show what the journal says now.

    Args:
        folder: The sweep's.
        repair: What was done to its journal.
        note: Told what MLflow has to mend.

    Raises:
        TrackingError: If MLflow cannot be used; giving the command again goes on.
    """
    lines = read_journal(folder)
    state = SweepState.of(lines[:1])
    uri = tracking_uri((state.experiment.get("tracking") or {}).get("uri"), folder.parent)
    projection = Projection(uri, folder, say=lambda text: note(f"MLflow: {text}"))
    projection.write_again(lines, without=list(repair.journal.cut) if repair.journal else [])


def rebuild_cards(folder: Path) -> int:
    """Bring the cards of all adapters to what the journal says.

    Args:
        folder: The sweep's.

    Returns:
        How many had to be written or removed.
    """
    state = SweepState.of(read_journal(folder), whole=False)
    return write_cards(SweepFolder(folder), state, state.everything)


def _time(of_line: object) -> float:
    return float(of_line) if isinstance(of_line, int | float) else time.time()


def _in_checkpoints(
    inside: SweepFolder, lines: Iterable[Line]
) -> Iterable[tuple[str, list[StageReported]]]:
    """What the last whole checkpoints of trials that have not ended say beyond the journal.

    The report after the last task is left to the sweep itself, which keeps its adapter first.
    """
    state = SweepState.of(lines, whole=False)
    for trial in state.everything.values():
        # One that learns in an order of its own is left to the sweep, which turns its rows.
        if trial.over or trial.name == BASE_TRIAL or "tasks" in trial.overrides:
            continue
        reports = [
            _reported(inside, trial.name, report)
            for report in _reports_of(inside, state, trial)
            if report.stage not in trial.by_stage
            and not (report.row is not None and report.task_index == len(state.tasks) - 1)
        ]
        if reports:
            yield trial.name, reports


def _reports_of(inside: SweepFolder, state: SweepState, trial: TrialRecord) -> list[StageReport]:
    """The reports in a trial's last whole checkpoint, if they go on from those of the journal."""
    places = [path for path in _folders(inside.work(trial.name)) if (path / STATE_FILE).is_file()]
    for place in furthest_first(places):
        if flaw(place) is not None:
            continue
        seal = read_seal(place)
        if (seal.get("sweep"), seal.get("trial")) == (state.sweep_id, trial.name):
            made = list(read_state(place).reports)
            known = [stage for stage in trial.by_stage if stage[0] >= 0]
            follows = [report.stage for report in made[: len(known)]] == known
            return made[len(known) :] if follows else []
    return []


def _reported(inside: SweepFolder, trial: str, report: StageReport) -> StageReported:
    """The event of a report, with the adapter that was kept for it."""
    place = inside.task_adapter(trial, report.task_index + 1)
    if report.fraction != DONE or flaw(place) is not None:
        return StageReported(trial, report)
    return StageReported(trial, report, inside.relative(place), content_hash(file_hashes(place)))


def _folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
