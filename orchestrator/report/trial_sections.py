"""The report's sections on trials: the table of all, and what failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.records.faults.fault_words import fault_words
from orchestrator.records.readings import CONTROLS
from orchestrator.records.scores import mean
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.report.figures import measure_words
from orchestrator.report.tables import Row, Table, first_rows, measure_cell
from orchestrator.report.trial_roles import by_merit, role_of
from orchestrator.system.formatting import moment, show, show_interval, show_setting

_MEASURES = ("gain", "accuracy", "forgetting", "probe_drift", "cost_s")
_FIRST = {"gain": "descending", "accuracy": "descending"}


@dataclass(frozen=True)
class Cell:
    """What a trial has in one column."""

    text: str
    key: str | None = None
    """By which the column is sorted; None comes last."""
    word: bool = False


@dataclass(frozen=True)
class Column:
    """One column of the table of all trials, but for their names."""

    head: str
    cell: Callable[[TrialRecord], Cell]
    kind: str | None = None
    """How it is sorted: number or word; None if not at all."""
    first: str | None = None
    """The order of the first click if not ascending."""
    path: str | None = None
    """Of the setting that it shows."""


def all_trials(view: SweepState) -> dict[str, Any]:
    """Every trial in one table that can be sorted."""
    settings = {trial.name: view.settings(trial) for trial in view.trials}
    columns = [
        Column("state", lambda trial: Cell(trial.state.lower(), trial.state, word=True), "word"),
        *_measure_columns(view),
        *_setting_columns(view, settings),
    ]
    rows = []
    for trial in by_merit(view):
        mark = {"champion": " ★", "front": " +"}.get(role_of(view, trial), "")
        if trial.of:
            mark += f" (seed {settings[trial.name].get('training.seed', '-')} of {trial.of})"
        rows.append(
            {
                "name": trial.name,
                "kind": f"{role_of(view, trial)} {trial.state}",
                "linked": bool(trial.reports),
                "mark": mark,
                "cells": [column.cell(trial) for column in columns],
            }
        )
    return {"columns": columns, "rows": rows, "controls": list(_controls(view, columns))}


def _measure_columns(view: SweepState) -> Iterator[Column]:
    extra = [n for n in view.experiment.get("objectives") or {} if n not in _MEASURES]
    for name in (*_MEASURES[:4], *extra, _MEASURES[4]):
        yield Column(
            measure_words(name),
            lambda trial, name=name: _number(measure_cell(trial, name), trial.measure(name)),
            "number",
            _FIRST.get(name),
        )
        if name == "gain":
            yield Column("95 % interval", lambda trial: Cell(show_interval(trial.gain_interval)))
    if any(map(view.is_screened, view.trials)):
        yield Column("examples", lambda trial: _examples_cell(view, trial), "number")
    if any(trial.taken_over for trial in view.trials):
        yield Column("learnt by another", _taken_cell, "word")
    for control in ("majority", "head_only"):
        if any(trial.interval(control) for trial in view.trials):
            yield Column(
                f"minus {CONTROLS[control].split(' (')[0]}, 95 %",
                lambda trial, control=control: Cell(show_interval(trial.interval(control))),
            )


def _setting_columns(
    view: SweepState, settings: Mapping[str, Mapping[str, Any]]
) -> Iterator[Column]:
    """A column for each searched setting in which trials differ."""

    def cell(value: Any, path: str) -> Cell:
        shown = show_setting(path, value)
        return (
            Cell(shown, shown, word=True)
            if isinstance(value, str | bool)
            else _number(shown, value)
        )

    for path in view.searched_settings:
        values = [settings[trial.name].get(path) for trial in view.trials]
        if len(set(map(str, values))) == 1 and len(values) > 1:
            continue
        numeric = all(isinstance(value, int | float) or value is None for value in values)
        yield Column(
            path.rsplit(".", 1)[-1],
            lambda trial, path=path: cell(settings[trial.name].get(path), path),
            "number" if numeric else "word",
            path=path,
        )


def _taken_cell(trial: TrialRecord) -> Cell:
    """Which tasks a trial has not trained, as another had learnt them alike."""
    sources = dict.fromkeys(trial.taken_over.values())
    tasks = {s: [t for t, other in trial.taken_over.items() if other == s] for s in sources}
    told = "; ".join(f"{', '.join(names)} by {source}" for source, names in tasks.items())
    return Cell(told or "-", told or None, word=True)


def _examples_cell(view: SweepState, trial: TrialRecord) -> Cell:
    """On how many validation examples of all tasks a trial was measured."""
    total = sum(view.examples(trial).values())
    return _number(str(total) if total else "-", total)


def _number(shown: str, value: Any) -> Cell:
    known = isinstance(value, int | float) and not math.isnan(value) and shown != "-"
    return Cell(shown, f"{value:.6g}" if known else None)


def _controls(view: SweepState, columns: Sequence[Column]) -> Iterator[tuple[str, list[str]]]:
    """The name and the cells of each control that has a score."""
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        score = mean(view.control_scores(control))
        if not math.isnan(score):
            cells = {"state": "control", "accuracy": show(score)}
            shown = ["" if column.path else cells.get(column.head, "") for column in columns]
            yield label.partition(" (")[0], shown


def failed(view: SweepState, folder: Path) -> list[Table]:
    """Trials that failed or were stopped, and why."""
    rows: list[Row] = []
    for trial in view.trials:
        if trial.state in {"FAILED", "STOPPED"}:
            log = _log(trial, folder) if trial.state == "FAILED" else "-"
            reason = trial.reason or "no reason was recorded"
            rows.append((trial.state, [trial.name, trial.state.lower(), reason, log]))
    heads = ["trial", "state", "why", "log, in the sweep's folder"]
    rows, caption = first_rows(rows)
    return [Table(caption, heads, rows, words=(1, 2, 3), code=3)] if rows else []


def survived(view: SweepState) -> list[Table]:
    """What went wrong and was survived: when, what, and whose work was done again."""
    rows: list[Row] = [("", [moment(fault.time), fault_words(fault)]) for fault in view.faults]
    return [Table("", ["when", "what, and whose work was lost"], rows, words=(1,))] if rows else []


def _log(trial: TrialRecord, folder: Path) -> Path:
    """Where a trial's log is, or was when the sweep's folder was elsewhere."""
    path = SweepFolder(folder).written_log(trial)
    return path.relative_to(folder) if path.is_relative_to(folder) else path
