"""Sweeps and trials as documents for programs, and the commands that come next."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.journal import Line, path_within
from orchestrator.objectives import NATURAL_DIRECTIONS
from orchestrator.sweep_view import BASE, SweepView, TrialView
from orchestrator.tracking_address import redacted, tracking_uri

_OF_LINES = {"n", "time", "event"}


def trial_document(view: SweepView, trial: TrialView, folder: Path) -> dict[str, Any]:
    """One trial for programs: settings, measures, matrix, reports, paths.

    Args:
        view: The sweep.
        trial: One of its trials.
        folder: The sweep's folder.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    matrix = view.matrix(trial)
    adapter = path_within(folder, trial.adapter) if trial.adapter else None
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
        "reports": [
            {key: value for key, value in report.items() if key != "per_example"}
            for report in trial.reports
        ],
        "adapter": str(adapter) if adapter else None,
        "versions": trial.versions,
        "log": str(log_path(trial, folder)),
    }


def trial_row(view: SweepView, trial: TrialView, folder: Path) -> dict[str, Any]:
    """One trial of a list, for programs: `trial_document` without its reports."""
    document = trial_document(view, trial, folder)
    del document["reports"]
    return document


def log_path(trial: TrialView, folder: Path) -> Path:
    """Where the trial's log is, or would be."""
    usual = folder / "trials" / trial.name / "log.txt"
    # Earlier versions wrote where it was then, and the folder may have been moved.
    written = folder / trial.log if trial.log else usual
    return written if written.is_relative_to(folder) else usual


def outcome_document(lines: Iterable[Line], folder: Path) -> dict[str, Any]:
    """The same as `render_outcome`, for programs.

    Args:
        lines: The journal.
        folder: The sweep's folder.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    view = SweepView.of(lines)
    base = view.everything.get(BASE)
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
        "finalists": view.finalists,
        "runner_up": view.runner_up,
        "runner_up_interval": view.runner_up_interval,
        "compared": view.compared,
        "test_readings": [
            {
                **{key: value for key, value in reading.items() if key not in _OF_LINES},
                "sides": {
                    name: {key: value for key, value in side.items() if "per_example" not in key}
                    for name, side in reading["sides"].items()
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


def _by_task(view: SweepView, control: str) -> dict[str, float] | None:
    scores = view.control_scores(control)
    measured = not all(math.isnan(score) for score in scores)
    return dict(zip(view.tasks, scores, strict=True)) if measured else None


def sweep_row(view: SweepView, folder: Path) -> dict[str, Any]:
    """One sweep of a list, for programs and for `render_sweeps`.

    Args:
        view: The sweep.
        folder: Its folder.

    Returns:
        A JSON-like document.
    """
    best = view.best
    return {
        "sweep": folder.name,
        "experiment": view.name,
        "kind": view.kind,
        "state": "ended" if view.ended else "unfinished",
        "opened": view.opened,
        "changed": view.changed,
        "trials_finished": len(view.finished),
        "trials_failed": sum(trial.state == "FAILED" for trial in view.trials),
        "trials_planned": view.total,
        "tasks": view.tasks,
        "best": best.name if best else None,
        "best_gain": best.measure("gain") if best else None,
        "champion": view.champion,
        "folder": str(folder),
    }


def program() -> str:
    """How to call this program from here: its name, or its path when the name is not found."""
    beside = Path(sys.executable).parent / "orchestrate"
    found = shutil.which("orchestrate")
    return "orchestrate" if found and Path(found) == beside else short_path(beside)


def next_commands(view: SweepView, folder: Path) -> dict[str, list[str]]:
    """The commands that come next, by what they are for.

    Args:
        view: The sweep.
        folder: The sweep's folder.

    Returns:
        Commands under "browse" and, when there is something to use, "use".
    """
    storage = short_path(folder.parent)
    where = [] if storage == "runs" else ["--storage", storage]
    best = view.best
    browse = [[program(), "runs", "show", folder.name, *where]]
    if best is not None:
        browse.append([program(), "runs", "show", folder.name, best.name, *where])
    browse += [[program(), command, folder.name, *where] for command in ("report", "ui")]
    use: list[list[str]] = []
    reference = None
    if view.model is not None:
        reference = f"{view.name}@champion"
        use.append([program(), "predict", reference, "--task", view.tasks[0], *where, "A TEXT"])
    elif best is not None and best.adapter:
        reference = f"{folder.name}/{best.name}"
    if reference is not None:
        to = f"exported/{view.name}"
        use.append([program(), "export", reference, "--as", "lora", "--to", to, *where])
    commands = {"browse": [shlex.join(words) for words in browse]}
    if use:
        commands["use"] = [shlex.join(words) for words in use]
    return commands


def short_path(path: Path) -> str:
    """A path as one would type it here: relative when it lies below the working folder."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` would follow venv's links)
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
