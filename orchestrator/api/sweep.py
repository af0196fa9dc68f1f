"""A sweep as its journal has it, for Python and notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from orchestrator.api.frames import (
    FrontFrame,
    MatrixFrame,
    curves_frame,
    front_frame,
    matrix_frame,
    trials_frame,
)
from orchestrator.api.journals import find_trial, read_sweep
from orchestrator.api.progress import LoggedProgress
from orchestrator.records.events import Line
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.deciding.decision import Decision, decide
from orchestrator.report.written import write_report
from orchestrator.spec.task_files import load_task
from orchestrator.sweep.scores.later_scores import Asked, score_later
from orchestrator.system.formatting import count
from orchestrator.system.stores.address import is_address, plain_address
from orchestrator.system.stores.opening import opened


class Sweep:
    """A sweep as its journal was when it was opened.

    Attributes:
        folder: Where it lies.
        state: What the journal says of it.
    """

    def __init__(self, folder: Path, lines: Sequence[Line]) -> None:
        """Read what a journal says.

        Args:
            folder: The sweep's folder.
            lines: Its journal.
        """
        self.folder = folder
        self.state = SweepState.of(lines)
        self._lines = lines

    @property
    def name(self) -> str:
        """The name that commands know it by: its folder's."""
        return self.folder.name

    @property
    def ended(self) -> bool:
        """Whether there is a verdict."""
        return self.state.ended

    @cached_property
    def decision(self) -> Decision:
        """What it decides: the pick, by how much over what, what was given up, what is open."""
        return decide(self.state)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """All trials by name: state, measures, intervals and settings.

        `gain_low` and `gain_high` are the 95 % interval of the gain; `minus_majority_low` and so on
        that of the mean final score minus a control's. Settings have dotted paths as in the file.
        """
        return trials_frame(self.state)

    @property
    def front(self) -> FrontFrame:
        """The trials that no other one beats in all objectives; empty while there is no verdict."""
        return front_frame(self.state)

    @property
    def champion(self) -> str | None:
        """The name of the trial that won; None before the sweep has ended, or where none did."""
        return self.state.champion

    @property
    def reason(self) -> str:
        """Why that trial won, or why none did."""
        return self.state.reason

    def matrix(self, trial: str) -> MatrixFrame:
        """The accuracy matrix of a trial.

        Args:
            trial: Its name; `base` is the untouched base.

        Returns:
            Scores, a row after each task that was learnt (the first before any) and a column for
            each task.

        Raises:
            UsageError: There is no such trial.
        """
        return matrix_frame(self.state, find_trial(self.state, trial))

    def curves(self, trial: str) -> pd.DataFrame:
        """The training loss of a trial.

        Args:
            trial: Its name.

        Returns:
            `task` and `loss` (nats per scored token) by optimiser step, counted from 1 through all
            tasks.

        Raises:
            UsageError: There is no such trial.
        """
        return curves_frame(find_trial(self.state, trial))

    def score(
        self,
        trial: str,
        *,
        full: bool = False,
        tasks: Sequence[Path | str] = (),
        base: Path | str | None = None,
    ) -> MatrixFrame:
        """Score a finished trial on all validation examples: as `orchestrate score` does.

        Args:
            trial: Its name.
            full: Every cell of its matrix; else those that the sweep's measures need.
            tasks: Task files of tasks that the sweep does not have; without `full` these alone.
            base: Where the base is now, if it was moved.

        Returns:
            The trial's matrix. Scores on other tasks are in `state.other_scores`.

        Raises:
            UsageError: There is no such trial.
            TaskFileError: A task file is wrong.
            SweepError: It cannot be done; the message says why.
        """
        find_trial(self.state, trial)
        others = tuple(load_task(Path(file)) for file in tasks)
        asked = Asked(trial, full, others, None if base is None else Path(base))
        self.state, self._lines = score_later(self.folder, asked, LoggedProgress())
        self.__dict__.pop("trials", None)
        return self.matrix(trial)

    def report(self, output: Path | str | None = None) -> Path:
        """Write the report: one HTML page and its pictures.

        Args:
            output: The folder to write to; None: `report` in the sweep's folder.

        Returns:
            The page.

        Raises:
            OSError: The folder cannot be written.
        """
        return write_report(self._lines, self.folder, None if output is None else Path(output))

    def __repr__(self) -> str:
        return f"<Sweep {self.name!r}: {self._summary()}>"

    def _repr_html_(self) -> str:
        front = self.front._repr_html_() if len(self.front) else ""
        return f"<p><b>{html.escape(self.name)}</b>: {html.escape(self._summary())}</p>{front}"

    def _summary(self) -> str:
        done = f"{len(self.state.finished)} of {count(self.state.total, 'trial')} finished"
        if not self.ended:
            return f"{done}, not ended"
        return f"{done}, champion {self.champion}" if self.champion else f"{done}, no champion"


def open_sweep(folder: Path | str) -> Sweep:
    """Open a sweep that was begun, also while it runs.

    Args:
        folder: The sweep's folder, for example `runs/demo`, or its address.

    Returns:
        The sweep as its journal is now; open it again to see more.

    Raises:
        UsageError: There is no sweep; the message names those beside it.
        JournalError: Its journal is damaged.
    """
    if is_address(folder):
        storage, _, name = plain_address(str(folder)).rpartition("/")
        return Sweep(*read_sweep(name, opened(storage)))
    place = Path(folder).expanduser().resolve()
    return Sweep(*read_sweep(place.name, place.parent))
