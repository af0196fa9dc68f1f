"""One trial as the driver sees it: its reports, its state, what it measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.loop.stage_report import DONE, StageReport
from orchestrator.loop.trial_state import BASE_TRIAL
from orchestrator.measures.intervals import Interval


@dataclass
class Trial:
    """One trial as the driver sees it."""

    name: str
    overrides: dict[str, Any]
    of: str | None = None
    """The finalist that this trial repeats with a fresh seed."""
    attempts: int = 0
    reports: dict[tuple[int, float], StageReport] = field(
        default_factory=dict[tuple[int, float], StageReport]
    )
    """Without what grows with steps and examples (the base's last keeps its examples)."""
    lines: dict[tuple[int, float], int] = field(default_factory=dict[tuple[int, float], int])
    """Which line of the journal holds a report whole."""
    state: str = "RUNNING"
    measures: dict[str, float] | None = None
    interval: Interval | None = None
    failure: str | None = None
    trouble: str | None = None
    """Why its last report could not be taken."""
    log: str | None = None

    def last_report(self, tasks: int) -> StageReport | None:
        """The report after the last task, which makes a trial whole."""
        return self.reports.get(self.last_key(tasks))

    def last_key(self, tasks: int) -> tuple[int, float]:
        """Where among the reports that one is."""
        return (-1 if self.name == BASE_TRIAL else tasks - 1, DONE)

    def take(self, report: StageReport, line: int) -> None:
        """Know of a report, which stands in a line of the journal."""
        key = (report.task_index, report.fraction)
        if self.name != BASE_TRIAL:
            report = replace(report, per_example=None)
        self.reports[key] = replace(report, losses=(), learning_rates=())
        self.lines[key] = line
