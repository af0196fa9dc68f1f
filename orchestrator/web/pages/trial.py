"""The page of a trial: its matrix, curves, settings, cards, log and files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from orchestrator.api.requests import ask_for_trial, ask_to_stop, changes_of
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.cards.card import adapter_card, adapter_of, carded
from orchestrator.records.cards.matrix import matrix_so_far
from orchestrator.records.cards.pruned import kept_words, pruned_words
from orchestrator.records.requests.request_files import pending
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.report.figures import measure_words
from orchestrator.report.tables import measure_cell
from orchestrator.report.trial_roles import role_of
from orchestrator.system.user_error import UserError
from orchestrator.web import addresses
from orchestrator.web.charts import curves
from orchestrator.web.guard import RefusedError, checked_form
from orchestrator.web.pages.files import kept_files, log_tail
from orchestrator.web.reading import NotFoundError
from orchestrator.web.rendering import cell, compact, page
from orchestrator.web.site import Site


def trial(request: Request) -> Response:
    """A trial."""
    return _shown(request)


def _shown(
    request: Request, *, error: str | None = None, given: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:  # fmt: skip
    site: Site = request.app.state.site
    name, view, record = _found(request)
    folder = site.reading.folder(name)
    repeats = site.reading.search(
        f"of = '{record.name}'", limit=20, sweep=name, columns=["trial", "state", "gain"]
    ).rows if "'" not in record.name else []  # fmt: skip
    settings = view.settings(record)
    shown = {
        "name": name,
        "trial": record,
        "role": role_of(view, record),
        "running": site.reading.running(name),
        "revision": site.reading.revision(name),
        "measures": _measures(record),
        "matrix": _matrix(view, record),
        "settings": [
            (path, cell(value, path), path in record.overrides) for path, value in settings.items()
        ],
        "overridden": [(path, cell(v, path)) for path, v in record.overrides.items()],
        "taken_over": record.taken_over,
        "cards": _cards(view, record, folder),
        "champion": view.champion,
        "used": site.reading.sweep_row(name).get("in_use"),
        "in_use": bool(
            site.reading.search(
                f'in_use = true and trial = "{record.name}"', limit=1, sweep=name, columns=["trial"]
            ).rows
        ),
        "repeats": repeats,
        "versions": view.versions_of(record),
        "log": log_tail(folder.written_log(record), folder.path),
        "files": kept_files(folder.trials / record.name),
        "error": error,
        "given": given or {},
        "as_asked": "\n".join(f"{path}={_as_yaml(v)}" for path, v in record.overrides.items()),
        "pending": [one for one in pending(folder) if one.trial == record.name],
        "taken": [one for one in view.requests.values() if one.about == record.name],
    }
    return page("trial", site.common(request, "Sweeps") | shown, status=status)


def _as_yaml(value: Any) -> str:
    """A value as a form has it, and `changes_of` reads it."""
    return json.dumps(value)


async def change_trial(request: Request) -> Response:
    """Ask the sweep's driver to stop this trial, or to add one like it.

    Args:
        request: A POST.

    Returns:
        The way back to the page, or the page with what was wrong.

    Raises:
        RefusedError: The form may change nothing.
    """
    site: Site = request.app.state.site
    fields = await checked_form(request, site.changes)
    action, reason = fields.get("action"), fields.get("reason", "").strip()
    if action not in {"stop", "add"}:
        raise RefusedError("Either stop or add is asked for.")

    def asked() -> Response:
        name, _, record = _found(request)
        folder = site.reading.folder(name).path
        try:
            if action == "stop":
                ask_to_stop(folder, record.name, reason)
            else:
                lines = [line for line in fields.get("changes", "").splitlines() if line.strip()]
                ask_for_trial(folder, record.name, changes_of(lines), reason)
        except UserError as error:
            return _shown(request, error=str(error), given=fields, status=409)
        return RedirectResponse(f"{addresses.trial_page(name, record.name)}#ask", status_code=303)

    return await run_in_threadpool(asked)


def _found(request: Request, *, cards: bool = False) -> tuple[str, SweepState, TrialRecord]:
    site: Site = request.app.state.site
    name, wanted = request.path_params["sweep"], request.path_params["trial"]
    view = site.reading.state(name, [wanted], cards=cards)
    return name, view, view.trial(wanted)


def _measures(record: TrialRecord) -> list[tuple[str, str, list[float] | None]]:
    """Name, value and interval of what was measured, the usual ones first."""
    first = ["gain", "accuracy", "forgetting", "probe_drift", "cost_s", "cost_tokens"]
    names = dict.fromkeys([*first, *NATURAL_DIRECTIONS])
    intervals = {"gain": record.gain_interval}
    return [
        (measure_words(name), measure_cell(record, name), intervals.get(name))
        for name in names
        if not math.isnan(record.measure(name))
    ]


def _matrix(view: SweepState, record: TrialRecord) -> dict[str, Any] | None:
    """The accuracy matrix with intervals and counts, as cells of a heat map."""
    rows = matrix_so_far(view, record, len(view.tasks))
    if not rows:
        return None
    probes = list(dict.fromkeys(probe for row in rows for probe in row["probes"] or {}))
    return {
        "tasks": view.tasks,
        "probes": probes,
        "rows": [
            {
                "name": f"{row['learnt']} {row['task'] or '(untouched base)'}",
                "cells": [
                    row["scores"][task] | {
                        "shade": _shade(row["scores"][task]["value"]),
                        "learnt": task == row["task"],
                    }
                    for task in view.tasks
                ],
                "probes": [_readings((row["probes"] or {}).get(probe)) for probe in probes],
            }
            for row in rows
        ],
        "controls": curves.control_rows(view),
    }  # fmt: skip


def _readings(found: object) -> str:
    """What was read of a probe, in a few words."""
    if not isinstance(found, Mapping):
        return cell(found)
    return ", ".join(f"{name} {cell(value)}" for name, value in found.items())


def _shade(score: float | None) -> str:
    return "blank" if score is None else f"h{min(10, max(0, round(score * 10)))}"


def _cards(view: SweepState, record: TrialRecord, folder: SweepFolder) -> list[dict[str, Any]]:
    """Of each task end: what was learnt, and whether its adapter is kept."""
    order = view.order_of(record)
    return [
        {
            "learnt": learnt,
            "task": order[learnt - 1],
            "adapter": kept_words(_place(view, record, learnt, folder)),
        }
        for learnt in carded(view, record)
    ]


def _place(view: SweepState, record: TrialRecord, learnt: int, folder: SweepFolder) -> Path | None:
    """Where the adapter after so many tasks was kept; None where it was not."""
    named, _ = adapter_of(view, record, learnt)
    return None if named is None else folder.within(named)


def card(request: Request) -> Response:
    """The card of an adapter, for people, or as JSON with `?as=json`."""
    site: Site = request.app.state.site
    name, view, record = _found(request, cards=True)
    learnt = int(request.path_params["learnt"])
    if learnt not in carded(view, record):
        raise NotFoundError(f"There is no card of {name}/{record.name} after {learnt} tasks.")
    document = adapter_card(view, record, learnt)
    if request.query_params.get("as") == "json":
        return compact(document)
    place = _place(view, record, learnt, site.reading.folder(name))
    gone = None if place is None else pruned_words(place)
    shown = {"name": name, "trial": record, "learnt": learnt, "card": document, "gone": gone}
    return page("card", site.common(request, "Sweeps") | shown)


def loss_data(request: Request) -> Response:
    """What the picture of the loss draws."""
    _, view, record = _found(request)
    return compact(curves.losses(view, record))


def score_data(request: Request) -> Response:
    """What the picture of the scores draws."""
    _, view, record = _found(request)
    return compact(curves.scores(view, record))


def trial_files(request: Request) -> Path:
    """The folder of what is kept of the trial that an address names."""
    site: Site = request.app.state.site
    name, _, record = _found(request)
    return site.reading.folder(name).trials / record.name
