"""Where a trial is: what its checkpoints hold besides tensors."""

from __future__ import annotations

import errno
import json
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.batches import PreparedData
from orchestrator.continual_loop import DONE, StageReport, Start, TaskSequence
from orchestrator.experiment import Experiment
from orchestrator.journal import without_nan
from orchestrator.methods import LaplaceRetention

_STATE_FILE = "trial.json"
"""Written last: a folder that has it is a whole checkpoint."""
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


def keep_checkpoint(fresh: Path, kept: Path) -> None:
    """Put a whole checkpoint in the place of the one before.

    Two processes may do so at a time: a member that was taken for lost goes on for a while beside
    the one that has its trials now. Either's checkpoint is one to go on from.

    Args:
        fresh: The new one, complete.
        kept: Its place; at every moment it, or a former one beside it, is a whole checkpoint.

    Raises:
        OSError: If the disk refuses it.
    """
    former = kept.with_name(f"{kept.name}.{uuid.uuid4().hex[:8]}{_FORMER}")
    placed = False
    while not placed:
        with suppress(FileNotFoundError):  # it is the first, or another process has just moved it
            kept.replace(former)
        try:
            fresh.replace(kept)
            placed = True
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        shutil.rmtree(former, ignore_errors=True)


def found_checkpoint(kept: Path) -> Path | None:
    """Find a trial's last checkpoint.

    Args:
        kept: Its place. Where a crash left none there, a former one is put back.

    Returns:
        `kept`, or None where the trial has none.

    Raises:
        OSError: If the disk refuses to put it back.
    """
    if not kept.is_dir():
        former = [path for path in kept.parent.glob(f"{kept.name}*{_FORMER}") if _is_whole(path)]
        latest = max(former, key=lambda path: (path / _STATE_FILE).stat().st_mtime, default=None)
        try:
            if latest is not None:
                latest.replace(kept)
        except OSError as error:  # another process may have put one there, or be about to
            if error.errno not in {*_TAKEN, errno.ENOENT}:
                raise
    return kept if _is_whole(kept) else None


def _is_whole(folder: Path) -> bool:
    return (folder / _STATE_FILE).is_file()


def fresh_state(sequence: TaskSequence) -> TrialState:
    """The state of a trial that has not begun."""
    return TrialState(AccuracyMatrix.empty([t.name for t in sequence.tasks]), Start(), ())
