"""A trial as the driver sees it: what the journal says of it, and what this session knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.records.scores import number
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.sweep.deciding.race import Stop


@dataclass
class Trial:
    """One trial as the driver sees it."""

    record: TrialRecord
    """What the journal says of it."""
    failure: str | None = None
    trouble: str | None = None
    """Why its last report could not be taken."""
    log: str | None = None
    stop: Stop | None = None
    """Why it is to be stopped early."""
    asked: str | None = None
    """Who has asked to stop it, and why."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    @property
    def overrides(self) -> dict[str, Any]:
        """Dotted paths of the experiment and its values."""
        return self.record.overrides

    @property
    def of(self) -> str | None:
        """The finalist that this trial repeats with a fresh seed."""
        return self.record.of

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.record.over

    @property
    def state(self) -> str:
        """RUNNING until it is over, then COMPLETE, FAILED or STOPPED."""
        return self.record.state if self.over else "RUNNING"

    @property
    def reports(self) -> Mapping[tuple[int, float], StageReport]:
        """By stage, without what grows with steps and examples (the base keeps its examples)."""
        return self.record.by_stage

    @property
    def measures(self) -> dict[str, float] | None:
        """What it measured, NaN where it could not; None unless it is complete."""
        return {name: number(v) for name, v in self.record.measures.items()} or None

    @property
    def searched_measures(self) -> dict[str, float] | None:
        """The same on the examples that all trials of the search are scored on."""
        return {name: number(v) for name, v in self.record.searched_measures.items()} or None

    def last_report(self, tasks: int) -> StageReport | None:
        """The report after the last task, which makes a trial whole."""
        return self.reports.get(self.last_stage(tasks))

    def last_stage(self, tasks: int) -> tuple[int, float]:
        """Which of its reports that one is."""
        return (-1 if self.name == BASE_TRIAL else tasks - 1, DONE)
