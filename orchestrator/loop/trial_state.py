"""The state of a trial, which its checkpoints hold besides tensors: matrix, reports, position."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.loop.task_sequence import Start, TaskSequence
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.system.strict_json import without_nan

STATE_FILE = "trial.json"


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
            _start(document["start"]),
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


def _start(document: Mapping[str, Any]) -> Start:
    series = {name: tuple(document.get(name, ())) for name in ("losses", "rates")}
    return Start(**{**document, **series})


def write_state(folder: Path, state: TrialState) -> None:
    """Write a trial's state beside its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE_FILE).write_text(json.dumps(state.as_document()), encoding="utf-8")


def read_state(folder: Path) -> TrialState:
    """Read a trial's state."""
    return TrialState.from_document(json.loads((folder / STATE_FILE).read_text("utf-8")))


def fresh_state(sequence: TaskSequence) -> TrialState:
    """The state of a trial that has not begun."""
    return TrialState(AccuracyMatrix.empty([t.name for t in sequence.tasks]), Start(), ())
