"""What an executor does with a trial's reports: its state goes on, it is saved, then it is told.

A trial is saved before anything is said of it, so that whatever was said can be gone on from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from orchestrator.executors.messages import Reported
from orchestrator.executors.task_adapters import TaskAdapters
from orchestrator.loop.shared_tasks import SharedTasks
from orchestrator.loop.trial_checkpoints import keep_checkpoint
from orchestrator.loop.trial_state import TrialState, write_state
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.system.seals import Maker, seal


class Saves(Protocol):
    """An engine, as far as it is saved."""

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write its part of a checkpoint; all workers call."""

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter for use; within `gathered`, on the first worker."""

    def gathered(self) -> AbstractContextManager[None]:
        """Within it the trainable tensors are whole; all workers call."""
        ...


class Checkpoints(Protocol):
    """Where a trial's checkpoints go."""

    def fresh(self) -> Path:
        """An empty place for the next one; the folder itself need not be there."""
        ...

    def keep(self, fresh: Path, report: StageReport) -> None:
        """Seal what was written there, put it into its place, and tell the report."""

    def tell(self, report: StageReport) -> None:
        """Tell a report to which no checkpoint belongs."""


class KeptCheckpoint:
    """Checkpoints of which the last is kept, in one place."""

    def __init__(self, kept: Path, maker: Maker, tell: Callable[[Reported], None]) -> None:
        """Name the place.

        Args:
            kept: Where the last whole one is.
            maker: What it is sealed with.
            tell: Receives each report, once its checkpoint is in its place.
        """
        self._kept, self._maker, self._tell = kept, maker, tell

    def fresh(self) -> Path:
        """An empty place beside the one that is kept."""
        fresh = self._kept.with_name(f"{self._kept.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        return fresh

    def keep(self, fresh: Path, report: StageReport) -> None:
        """Let it take the place of the one before, and tell the report."""
        keep_checkpoint(fresh, self._kept, self._maker)
        self._tell(Reported(report, self._kept))

    def tell(self, report: StageReport) -> None:
        """Tell a report to which no checkpoint belongs."""
        self._tell(Reported(report))


class TrialShell:
    """A trial as its executor keeps it: where it is, and what is saved of it."""

    def __init__(
        self,
        maker: Maker,
        state: TrialState,
        checkpoints: Checkpoints,
        adapters: TaskAdapters,
        *,
        first: bool = True,
        shared: SharedTasks | None = None,
    ) -> None:
        """Begin, or go on.

        Args:
            maker: What the trial's work is sealed with.
            state: Where it goes on from.
            checkpoints: Where its checkpoints go.
            adapters: Where its adapters go.
            first: Whether this is the first of its workers, which writes what is no worker's own.
            shared: What it shares with other trials; None: nothing.
        """
        self.state = state
        self._maker, self._checkpoints, self._first = maker, checkpoints, first
        self._adapters, self._shared = adapters, shared

    def reported(self, report: StageReport, matrix: AccuracyMatrix, engine: Saves) -> None:
        """Save a trial that has come to a rung or to the end of a task, then tell its report.

        Of the untouched base nothing is saved but its state: it has learnt nothing.

        Args:
            report: What it reports.
            matrix: All scores so far.
            engine: What has computed them.
        """
        for earlier in self._shared.on_the_way(report) if self._shared is not None else ():
            self.state = self.state.after(earlier, matrix)
            self._checkpoints.tell(earlier)
        self.state = self.state.after(report, matrix)
        fresh = self._checkpoints.fresh()
        if self._maker.trial != BASE_TRIAL:
            # All workers take part in it, so nothing that can fail on the first alone comes before.
            if self._adapters.wanted(report):
                with engine.gathered():
                    if self._first:
                        engine.save_adapter(fresh / "adapter")
                if self._first:
                    seal(fresh / "adapter", self._maker)
                    self._adapters.keep(fresh / "adapter", report)
            engine.save(fresh, with_optimizer=report.fraction < DONE)
        if self._first:
            write_state(fresh, self.state)
            if self._shared is not None and report.fraction == DONE:
                self._shared.keep(fresh, self.state)
        self._checkpoints.keep(fresh, report)
