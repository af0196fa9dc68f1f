"""The report's sections on trials: the table of all, and what failed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.records.readings import CONTROLS
from orchestrator.records.scores import mean
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.report.figures import measure_words
from orchestrator.report.markup import Markup, element, join
from orchestrator.report.tables import measure_cell, plain_table, scrolled, trial_link
from orchestrator.report.trial_roles import by_merit, role_of
from orchestrator.system.formatting import show, show_interval, show_setting

_MEASURES = ("gain", "accuracy", "forgetting", "probe_drift", "cost_s")
_FIRST = {"gain": "descending", "accuracy": "descending"}


def all_trials(view: SweepState) -> Markup:
    """Every trial in one table that can be sorted."""
    if not view.trials:
        return element("p", "No trial has been proposed yet.")
    extra = [n for n in view.experiment.get("objectives") or {} if n not in _MEASURES]
    measures = [*_MEASURES[:4], *extra, _MEASURES[4]]
    settings = {trial.name: view.settings(trial) for trial in view.trials}
    paths = [
        path
        for path in view.searched_settings
        if len({str(settings[t.name].get(path)) for t in view.trials}) > 1 or len(view.trials) == 1
    ]
    head: list[Markup] = [_sort_head("trial", "word"), _sort_head("state", "word")]
    for name in measures:
        head.append(
            _sort_head(
                measure_words(name),
                "number",
                _FIRST.get(name),
            )
        )
        if name == "gain":
            head.append(element("th", "95 % interval", scope="col"))
    compared = [c for c in ("majority", "head_only") if any(t.interval(c) for t in view.trials)]
    head += [
        element("th", f"minus {CONTROLS[c].split(' (')[0]}, 95 %", scope="col") for c in compared
    ]
    for path in paths:
        values = [settings[t.name].get(path) for t in view.trials]
        kind = "number" if all(isinstance(v, int | float) or v is None for v in values) else "word"
        head.append(_sort_head(path.rsplit(".", 1)[-1], kind, title=path))
    body = [
        _trial_row(view, t, measures, compared, paths, settings[t.name]) for t in by_merit(view)
    ]
    width = 4 + len(measures) - 2
    controls = []
    for control, label in (*CONTROLS.items(), ("chance", "chance")):
        score = mean(view.control_scores(control))
        if not math.isnan(score):
            cells = ["control", *([""] * (width - 1 + len(compared) + len(paths)))]
            cells[measures.index("accuracy") + 2] = show(score)
            short = label.partition(" (")[0]
            controls.append(
                element(
                    "tr",
                    element("th", short, scope="row"),
                    *(element("td", c, class_="w" if c == "control" else None) for c in cells),
                    class_="control",
                )
            )
    told = "Click a heading to sort. Below the trials stand the controls for their accuracy."
    return join(
        element("p", told, class_="quiet"),
        scrolled(
            "All trials",
            element(
                "table",
                element("thead", element("tr", *head)),
                element("tbody", *body),
                element("tbody", *controls),
                class_="trials",
            ),
        ),
    )


def _sort_head(words: str, kind: str, first: str | None = None, title: str | None = None) -> Markup:
    return element(
        "th",
        element("button", words, type="button", title=title),
        scope="col",
        data_kind=kind,
        data_first=first,
        class_="w" if kind == "word" else None,
    )


def _trial_row(
    view: SweepState,
    trial: TrialRecord,
    measures: Sequence[str],
    compared: Sequence[str],
    paths: Sequence[str],
    settings: Mapping[str, Any],
) -> Markup:
    role = role_of(view, trial)
    sign = {"champion": " ★", "front": " +"}.get(role, "")
    name = join(trial_link(trial.name) if trial.reports else trial.name, sign)
    if trial.of:
        name = join(name, f" (seed {settings.get('training.seed', '-')} of {trial.of})")
    cells = [element("td", trial.state.lower(), class_="w", data_v=trial.state)]
    for measure in measures:
        cells.append(_value(measure_cell(trial, measure), trial.measure(measure)))
        if measure == "gain":
            cells.append(element("td", show_interval(trial.gain_interval)))
    cells += [element("td", show_interval(trial.interval(control))) for control in compared]
    for path in paths:
        value = settings.get(path)
        words = isinstance(value, str | bool)
        shown = show_setting(path, value)
        cells.append(
            element("td", shown, class_="w", data_v=shown) if words else _value(shown, value)
        )
    return element(
        "tr",
        element("th", name, scope="row", data_v=trial.name),
        *cells,
        class_=f"{role} {trial.state}",
        data_trial=trial.name,
    )


def _value(shown: str, value: Any) -> Markup:
    known = value is not None and not (isinstance(value, float) and math.isnan(value))
    return element(
        "td",
        shown,
        data_v=f"{value:.6g}"
        if known and shown != "-" and isinstance(value, int | float)
        else None,
    )


def _log(trial: TrialRecord, folder: Path) -> Path:
    """Where a trial's log is, or was when the sweep's folder was elsewhere."""
    path = SweepFolder(folder).written_log(trial)
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def failed(view: SweepState, folder: Path) -> Markup | None:
    """Trials that failed or were stopped, and why."""
    rows = []
    for trial in view.trials:
        if trial.state in {"FAILED", "STOPPED"}:
            log = _log(trial, folder) if trial.state == "FAILED" else "-"
            reason = trial.reason or "no reason was recorded"
            rows.append(
                (trial.state, [trial.name, trial.state.lower(), reason, element("code", log)])
            )
    if not rows:
        return None
    return plain_table(
        "", ["trial", "state", "why", "log, in the sweep's folder"], rows, words=(1, 2, 3)
    )
