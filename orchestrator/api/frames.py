"""What a sweep has found as data frames; matrices and fronts show themselves in notebooks."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from orchestrator.api.trial_rows import columns, trial_rows
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.registry.index.fields import INTERVALS

UNTOUCHED = "untouched base"
"""The row of a matrix before anything was learnt."""


class FrontFrame(pd.DataFrame):
    """Trials on the front; in a notebook the champion's row is bold."""

    def _repr_html_(self) -> str:
        shown: Any = self.style.format(precision=3, na_rep="-")
        if "champion" in self:
            bold = {True: "font-weight: bold", False: ""}
            shown = shown.apply(lambda row: [bold[bool(row["champion"])]] * len(row), axis=1)
        return shown.to_html()


class MatrixFrame(pd.DataFrame):
    """Scores by what was learnt and by task; in a notebook the shade of a cell is its score."""

    def _repr_html_(self) -> str:
        shown: Any = self.style.format(precision=3, na_rep="-")
        return shown.map(_shade).to_html()


def _shade(score: Any) -> str:
    if not isinstance(score, float) or math.isnan(score):
        return ""
    return f"background: rgba(47, 134, 197, {min(1.0, max(0.0, score)) * 0.8:.2f})"


def trials_frame(view: SweepState) -> pd.DataFrame:
    """A sweep's trials.

    Args:
        view: The sweep.

    Returns:
        A row for each trial by its name, in the order of proposal; columns as `columns` says.
        Measures and intervals are float64, NaN where they were not measured.
    """
    numbers = [*NATURAL_DIRECTIONS, *INTERVALS]
    frame = pd.DataFrame(trial_rows(view), columns=columns(view)).set_index("trial")
    return frame.astype(dict.fromkeys(numbers, float))


def front_frame(view: SweepState) -> FrontFrame:
    """The trials that no other one beats in all objectives.

    Args:
        view: The sweep.

    Returns:
        A row for each by its name: objectives, the interval of the gain, whether it is the
        champion, and the settings that were searched. Empty while the sweep has not ended.
    """
    trials = trials_frame(view)
    shown = [*view.experiment.get("objectives", {}), "gain_low", "gain_high", "champion"]
    settings = [path for path in view.searched_settings if path in trials]
    return FrontFrame(trials.loc[view.front, [*shown, *settings]])


def matrix_frame(view: SweepState, trial: TrialRecord) -> MatrixFrame:
    """A trial's accuracy matrix.

    Args:
        view: The sweep.
        trial: One of its trials.

    Returns:
        Scores in [0, 1], NaN where not measured: a row after each task that was learnt, the first
        of the untouched base, and a column for each task. Without rows before there is a score.
    """
    matrix = view.matrix(trial)
    rows = [] if matrix is None else matrix.rows
    learnt = [UNTOUCHED, *view.tasks][: len(rows)]
    return MatrixFrame(
        rows,
        index=pd.Index(learnt, name="after"),
        columns=pd.Index(view.tasks, name="score on"),
        dtype=float,
    )


def curves_frame(trial: TrialRecord) -> pd.DataFrame:
    """A trial's training loss by step.

    Args:
        trial: The trial.

    Returns:
        A row for each optimiser step, counted from 1 through all tasks: `task` and `loss`, in nats
        per scored token, without what the retention adds.
    """
    names = {report.task_index: report.task for report in trial.reports}
    tasks = [
        names[index] for index, steps in sorted(trial.task_steps.items()) for _ in range(steps)
    ]
    losses = trial.losses
    return pd.DataFrame(
        {"task": [tasks[step - 1] for step, _ in losses], "loss": [loss for _, loss in losses]},
        index=pd.Index([step for step, _ in losses], name="step"),
    )
