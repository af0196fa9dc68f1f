"""Sweeps and trials as documents for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from orchestrator.cli.output.next_commands import next_commands
from orchestrator.records.cards.pruned import pruned_at
from orchestrator.records.event import Line
from orchestrator.records.event_values import Finalist
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.redaction import redacted
from orchestrator.records.registry.verdicts import in_use_beside
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.registry.index import trial_document as kept
from orchestrator.registry.index.index import Index

_OF_LINES = {"n", "time", "event"}
_AT_ONCE = 500
"""Trials whose documents are held at once."""


def trial_document(view: SweepState, trial: TrialRecord, folder: Path) -> dict[str, Any]:
    """One trial for programs: settings, measures, matrix, reports, paths.

    Args:
        view: The sweep.
        trial: One of its trials.
        folder: The sweep's folder.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    reports = [
        {k: v for k, v in report.as_document().items() if k != "per_example"}
        for report in trial.reports
    ]
    return trial_row(view, trial, folder) | {"reports": reports}


def trial_row(view: SweepState, trial: TrialRecord, folder: Path) -> dict[str, Any]:
    """One trial of a list, for programs: `trial_document` without its reports."""
    on_front, champion = trial.name in view.front, trial.name == view.champion
    pruned = pruned_at(SweepFolder(folder).within(trial.adapter)) if trial.adapter else None
    places = _places(folder, trial.name, trial.adapter if pruned is None else None, trial.log)
    marks = {"on_front": on_front, "champion": champion}
    return {**kept.trial_document(view, trial), **marks, **places, "pruned": pruned}


def trial_texts(index: Index, trials: Sequence[tuple[str, str]], *, named: bool) -> Iterator[str]:
    """`trial_row` of any number of trials as JSON, without reading a journal.

    Args:
        index: The index of their storage folder.
        trials: The name of the sweep and that of the trial, of each.
        named: Whether a row begins with the name of its sweep.

    Yields:
        JSON objects, in the order of the trials.
    """
    for at in range(0, len(trials), _AT_ONCE):
        for sweep, group in groupby(trials[at : at + _AT_ONCE], key=itemgetter(0)):
            folder = index.storage / sweep
            for one in index.documents(sweep, [name for _, name in group]):
                head = {"sweep": sweep} if named else {}
                marks = {"on_front": one.on_front, "champion": one.champion}
                places = _places(folder, one.trial, one.adapter, one.log)
                text = json.dumps({**head, **marks, **places, "pruned": one.pruned})
                yield f"{text[:-1]}, {one.text[1:]}"


def _places(folder: Path, name: str, adapter: str | None, log: str | None) -> dict[str, Any]:
    """Where a trial's adapter and its log are now."""
    inside = SweepFolder(folder)
    return {
        "adapter": str(inside.within(adapter)) if adapter else None,
        "log": str(inside.written_log(TrialRecord(name, log=log))),
    }


def outcome_document(lines: Iterable[Line], folder: Path) -> dict[str, Any]:
    """The same as `render_outcome`, for programs.

    Args:
        lines: The journal.
        folder: The sweep's folder.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    view = SweepState.of(lines)
    head = sweep_head(view, folder, view.total)
    return head | {"trials": [trial_row(view, trial, folder) for trial in view.trials]}


def sweep_head(view: SweepState, folder: Path, planned: int) -> dict[str, Any]:
    """`outcome_document` without its trials.

    Args:
        view: The sweep; of its trials, those are needed that its verdict names, and the best.
        folder: Its folder.
        planned: How many trials there are to be.

    Returns:
        A JSON-like document; NaN may occur and is for the writer to turn into null.
    """
    base = view.everything.get(BASE_TRIAL)
    zero_shot = base.base_row if base else None
    return {
        "sweep": view.name,
        "kind": view.kind,
        "folder": str(folder),
        "ended": view.ended,
        "trials_planned": planned,
        "tasks": view.tasks,
        "zero_shot": dict(zip(view.tasks, zero_shot, strict=True)) if zero_shot else None,
        "head_only": _by_task(view, "head_only"),
        "controls": view.controls,
        "front": view.front,
        "champion": view.champion,
        "in_use": in_use_beside(view, folder),
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
