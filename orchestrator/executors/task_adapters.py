"""A trial's adapter after each task but the last, from which its scores can be made later.

It is in its place before the report that belongs to it is told. The adapter after the last task
travels with the trial's last checkpoint.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from orchestrator.loop.task_sequence import keeps_adapters
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment
from orchestrator.system.durable import copy_folder, remove


class TaskAdapters:
    """Where the adapters of one trial go."""

    def __init__(self, folder: SweepFolder, trial: str, experiment: Experiment) -> None:
        """Name the places.

        Args:
            folder: The sweep's.
            trial: The trial's name.
            experiment: Its experiment, overrides applied.
        """
        self._folder, self._trial = folder, trial
        self._tasks = len(experiment.tasks)
        self._kept = keeps_adapters(experiment)

    def wanted(self, report: StageReport) -> bool:
        """Whether an adapter belongs to a report: here, or with the last checkpoint."""
        return report.fraction == DONE and (self._kept or self._is_last(report))

    def keep(self, made: Path, report: StageReport) -> None:
        """Move a sealed adapter to its place; the one after the last task stays where it is.

        Args:
            made: What was saved, on any file system.
            report: The report that it belongs to.

        Raises:
            OSError: If the disk refuses it.
        """
        if self._is_last(report):
            return
        place = self._folder.task_adapter(self._trial, report.task_index + 1)
        remove(place)  # of an attempt that went on from an earlier task
        try:
            copy_folder(made, place)
        except OSError as error:
            # A member that was taken for lost has come first: either's is the trial's own.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        shutil.rmtree(made)

    def _is_last(self, report: StageReport) -> bool:
        return report.task_index == self._tasks - 1
