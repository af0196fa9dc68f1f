"""Sweeps and trials as documents for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.cli.output.next_commands import next_commands
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.event import Line
from orchestrator.records.event_values import Finalist
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.redaction import redacted
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord

_OF_LINES = {"n", "time", "event"}


def trial_document(view: SweepState, trial: TrialRecord, folder: Path) -> dict[str, Any]:
    """One trial for programs: settings, measures, matrix, reports, paths.

    Args:
        view: The sweep.
        trial: One of its trials.
        folder: The sweep's folder.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    matrix = view.matrix(trial)
    adapter = SweepFolder(folder).within(trial.adapter) if trial.adapter else None
    return {
        "trial": trial.name,
        "state": trial.state,
        "reason": trial.reason,
        "on_front": trial.name in view.front,
        "champion": trial.name == view.champion,
        "settings": view.settings(trial),
        "overrides": trial.overrides,
        "measures": {name: trial.measures.get(name) for name in NATURAL_DIRECTIONS},
        "gain_interval": trial.gain_interval,
        "intervals": trial.intervals,
        "repeats": trial.of,
        "matrix": None if matrix is None else {"tasks": matrix.tasks, "rows": matrix.rows},
        "examples": view.examples(trial),
        "other_tasks": {
            task: {
                str(learnt): {"score": found.value, "examples": found.examples}
                for learnt, found in cells.items()
            }
            for task, cells in view.other_scores(trial).items()
        },
        "reports": [
            {k: v for k, v in report.as_document().items() if k != "per_example"}
            for report in trial.reports
        ],
        "adapter": str(adapter) if adapter else None,
        "versions": trial.versions,
        "log": str(SweepFolder(folder).written_log(trial)),
    }


def trial_row(view: SweepState, trial: TrialRecord, folder: Path) -> dict[str, Any]:
    """One trial of a list, for programs: `trial_document` without its reports."""
    document = trial_document(view, trial, folder)
    del document["reports"]
    return document


def outcome_document(lines: Iterable[Line], folder: Path) -> dict[str, Any]:
    """The same as `render_outcome`, for programs.

    Args:
        lines: The journal.
        folder: The sweep's folder.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    view = SweepState.of(lines)
    base = view.everything.get(BASE_TRIAL)
    zero_shot = base.base_row if base else None
    return {
        "sweep": view.name,
        "kind": view.kind,
        "folder": str(folder),
        "ended": view.ended,
        "trials_planned": view.total,
        "tasks": view.tasks,
        "zero_shot": dict(zip(view.tasks, zero_shot, strict=True)) if zero_shot else None,
        "head_only": _by_task(view, "head_only"),
        "controls": view.controls,
        "trials": [trial_row(view, trial, folder) for trial in view.trials],
        "front": view.front,
        "champion": view.champion,
        "reason": view.reason,
        "finalists": Finalist.write_all(view.finalists),
        "runner_up": view.runner_up,
        "runner_up_interval": view.runner_up_interval,
        "compared": view.compared,
        "extension": None
        if view.extension is None
        else {
            key: value for key, value in view.extension.to_line().items() if key not in _OF_LINES
        },
        "test_readings": [
            {
                **{key: value for key, value in reading.to_line().items() if key not in _OF_LINES},
                "sides": {
                    name: {k: v for k, v in side.as_document().items() if "per_example" not in k}
                    for name, side in reading.sides.items()
                },
            }
            for reading in view.readings
        ],
        "registered": {"model": view.model, "version": view.version} if view.model else None,
        "scores_are": "validation scores by which the trials were chosen, but for `test_readings`",
        "tracking_uri": redacted(
            tracking_uri((view.experiment.get("tracking") or {}).get("uri"), folder.parent)
        ),
        "commands": next_commands(view, folder),
    }


def _by_task(view: SweepState, control: str) -> dict[str, float] | None:
    scores = view.control_scores(control)
    measured = not all(math.isnan(score) for score in scores)
    return dict(zip(view.tasks, scores, strict=True)) if measured else None
