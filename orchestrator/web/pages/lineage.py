"""The page of a sweep's adapters: over the tasks, and what each was learnt on from."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.records.cards.card import carded
from orchestrator.records.cards.lineage import parent_of
from orchestrator.records.journal_facts import effective_experiment
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.user_error import UserError
from orchestrator.web import addresses
from orchestrator.web.charts import lineage as drawing
from orchestrator.web.reading import Reading
from orchestrator.web.rendering import compact, page
from orchestrator.web.site import Site


def lineage(request: Request) -> Response:
    """The lineage as a picture and as a table."""
    site: Site = request.app.state.site
    name = request.path_params["sweep"]
    trials, total = _chosen(request, site.reading, name)
    view = site.reading.state(name, trials)
    shown = {
        "name": name,
        "total": total,
        "drawn": len(trials),
        "tasks": view.tasks,
        "trial": request.query_params.get("trial"),
        "rows": [row for trial in trials for row in _rows(view, trial)],
        "source": addresses.with_query(
            addresses.data(name, "lineage"), {"trial": request.query_params.get("trial")}
        ),
    }
    return page("lineage", site.common(request, "Sweeps") | shown)


def lineage_data(request: Request) -> Response:
    """What the picture draws."""
    site: Site = request.app.state.site
    name = request.path_params["sweep"]
    trials, _ = _chosen(request, site.reading, name)
    view = site.reading.state(name, trials)
    view.name = name
    drawn = [view.trial(trial) for trial in trials]
    return compact(drawing.lineage(view, drawn, site.reading.folder(name)))


def _chosen(request: Request, reading: Reading, sweep: str) -> tuple[list[str], int]:
    """The trials that are drawn, and how many there are.

    Those asked for, with the trials whose learning they have taken over; else champion and front,
    then the largest gains.

    Args:
        request: The page's.
        reading: The storage folder.
        sweep: The sweep's name.

    Returns:
        Names in order, and how many trials have learnt a task.
    """
    asked = [one for one in request.query_params.getlist("trial") if one]
    found = reading.search(
        "learnt > 0", order=["-champion", "-on_front", "-gain"], limit=drawing.MOST_TRIALS,
        sweep=sweep, columns=["trial"],
    )  # fmt: skip
    first = asked or [row["trial"] for row in found.rows]
    view = reading.state(sweep, first)
    others = {
        source
        for name in first
        for source in view.trial(name).taken_over.values()
        if "/" not in source
    }
    return list(dict.fromkeys([*first, *sorted(others)]))[: drawing.MOST_TRIALS], found.total


def _rows(view: SweepState, name: str) -> list[dict[str, Any]]:
    trial = view.trial(name)
    order = view.order_of(trial)
    try:
        run = effective_experiment(view.experiment, trial.overrides)
    except UserError:  # written by a version with other fields
        run = None
    return [
        {
            "trial": name,
            "learnt": n,
            "task": order[n - 1],
            "parent": parent_of(view, trial, n, run) if run is not None else None,
        }
        for n in carded(view, trial)
    ]
