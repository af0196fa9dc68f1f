"""Where a trial is: what its checkpoints hold besides tensors."""

from __future__ import annotations

import errno
import json
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import durable
from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.batches import PreparedData
from orchestrator.continual_loop import DONE, StageReport, Start, TaskSequence
from orchestrator.experiment import Experiment
from orchestrator.journal import without_nan
from orchestrator.methods import LaplaceRetention
from orchestrator.seals import UNSEALED, Maker, flaw, move_aside, seal

_STATE_FILE = "trial.json"
_FORMER = ".old"
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}
"""What a folder that is to be renamed gets where another one stands in its new place."""


@dataclass(frozen=True)
class TrialState:
    """Where a trial is: what its checkpoints hold besides tensors."""

    matrix: AccuracyMatrix
    start: Start
    reports: tuple[StageReport, ...]

    def as_document(self) -> dict[str, Any]:
        """The state as JSON."""
        return without_nan(
            {
                "tasks": self.matrix.tasks,
                "rows": self.matrix.rows,
                "start": asdict(self.start),
                "reports": [report.as_document() for report in self.reports],
            }
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> TrialState:
        """The state of `as_document`."""
        nan = float("nan")
        rows = tuple(tuple(nan if v is None else v for v in row) for row in document["rows"])
        return cls(
            AccuracyMatrix(tuple(document["tasks"]), rows),
            Start(**document["start"]),
            tuple(StageReport.from_document(report) for report in document["reports"]),
        )

    def after(self, report: StageReport, matrix: AccuracyMatrix) -> TrialState:
        """The state once a report has been made."""
        inside = report.fraction < DONE
        start = Start(
            report.step if inside else 0,
            report.tokens,
            report.seconds,
            report.held_out_best if inside else None,
            report.held_out_waited if inside else 0,
        )
        return TrialState(matrix, start, (*self.reports, report))


def task_sequence(experiment: Experiment, data: PreparedData) -> TaskSequence:
    """What an experiment learns and measures."""
    method = experiment.method
    retention = method.retention
    named = retention.sources if isinstance(retention, LaplaceRetention) else ()
    return TaskSequence(
        tasks=tuple(data.tasks[name] for name in experiment.tasks),
        probes=tuple(data.tasks[name] for name in experiment.probes),
        batch_size=experiment.training.batch_size,
        epochs=experiment.training.epochs,
        seed=experiment.training.seed,
        rung_examples=experiment.data.rung_examples,
        probes_once=experiment.data.probe_after == "last_task",
        joint=method.sequence == "joint",
        early_stopping=method.early_stopping,
        sources=tuple(data.tasks[name].train for name in named),
    )


def write_state(folder: Path, state: TrialState) -> None:
    """Write a trial's state beside its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STATE_FILE).write_text(json.dumps(state.as_document()), encoding="utf-8")


def read_state(folder: Path) -> TrialState:
    """Read a trial's state."""
    return TrialState.from_document(json.loads((folder / _STATE_FILE).read_text("utf-8")))


def keep_checkpoint(fresh: Path, kept: Path, maker: Maker) -> None:
    """Seal a whole checkpoint and put it in the place of the one before, which is kept beside it.

    Two processes may do so at a time: a member that was taken for lost goes on for a while beside
    the one that has its trials now. Either's checkpoint is one to go on from.

    Args:
        fresh: The new one, complete.
        kept: Its place; at every moment it, or a former one beside it, is a whole checkpoint.
        maker: Whose work it is.

    Raises:
        OSError: If the disk refuses it.
    """
    seal(fresh, maker)
    durable.sync(fresh)
    placed = False
    while not placed:
        former = kept.with_name(f"{kept.name}.{uuid.uuid4().hex[:8]}{_FORMER}")
        with suppress(FileNotFoundError):  # it is the first, or another process has just moved it
            kept.replace(former)
        try:
            durable.put(fresh, kept)
            placed = True
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    for earlier in _formers(kept)[1:]:
        shutil.rmtree(earlier, ignore_errors=True)


@dataclass(frozen=True)
class SetAside:
    """Something foreign or damaged that was found where a trial's own work should be."""

    what: Path
    kept_as: Path
    because: str

    def as_message(self) -> dict[str, Any]:
        """What a trial says of it."""
        fields = {"what": str(self.what), "kept_as": str(self.kept_as), "because": self.because}
        return {"kind": "set_aside", **fields}


def found_checkpoint(kept: Path, maker: Maker) -> tuple[Path | None, list[SetAside]]:
    """Find the last whole checkpoint of a trial; what is not, is set aside.

    Args:
        kept: Its place.
        maker: Whose work it should be.

    Returns:
        `kept`, where now the last whole checkpoint is, or None where the trial has none; and what
        was set aside.

    Raises:
        OSError: If the disk refuses to put a former one back.
    """
    found, aside = last_whole([kept, *_formers(kept)], maker)
    if found is None or found == kept:
        return found, aside
    try:
        found.replace(kept)
    except OSError as error:  # another process may have put one there, or be about to
        if error.errno not in {*_TAKEN, errno.ENOENT}:
            raise
    return kept, aside


def last_whole(
    places: Iterable[Path], maker: Maker, *, leave: bool = False
) -> tuple[Path | None, list[SetAside]]:
    """The first of some folders that is a whole checkpoint of a trial.

    Args:
        places: The folders, the newest first; those that are empty or not there do not count.
        maker: Whose work it should be.
        leave: Whether an empty folder stays where one was set aside.

    Returns:
        The folder, None where none is whole; and what was before it and is not whole: it has been
        set aside.
    """
    aside: list[SetAside] = []
    for place in places:
        if not place.is_dir() or not any(place.iterdir()):
            continue
        wrong = flaw(place, maker)
        if wrong == UNSEALED and maker.unsealed and (place / _STATE_FILE).is_file():
            wrong = None
        if wrong is None:
            return place, aside
        aside.append(SetAside(place, move_aside(place), wrong))
        if leave:
            place.mkdir()
    return None, aside


def _formers(kept: Path) -> list[Path]:
    """The checkpoints that were in a place before, the newest first; see `keep_checkpoint`."""
    found = [path for path in kept.parent.glob(f"{kept.name}*{_FORMER}") if path.is_dir()]
    # Renaming a folder changes nothing in it: its state is as old as the checkpoint.
    written = {path: _written(path / _STATE_FILE) for path in found}
    return sorted(found, key=lambda path: written[path], reverse=True)


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # not whole, or removed meanwhile
        return 0.0


def fresh_state(sequence: TaskSequence) -> TrialState:
    """The state of a trial that has not begun."""
    return TrialState(AccuracyMatrix.empty([t.name for t in sequence.tasks]), Start(), ())
