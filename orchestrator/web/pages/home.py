"""The first page: every sweep of the storage folder, and trials of all of them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.registry.query.errors import QueryError
from orchestrator.web.pages import trials
from orchestrator.web.rendering import page
from orchestrator.web.site import Site

_MOST = 200
"""Sweeps that are listed at once."""


def home(request: Request) -> Response:
    """Sweeps, the one that was begun last first."""
    site: Site = request.app.state.site
    rows = site.reading.sweeps()
    named = request.query_params.get("name", "").strip()
    found = [row for row in rows if named.lower() in str(row["sweep"]).lower()]
    for row in found[:_MOST]:
        row["running"] = site.reading.running(row["sweep"])
    shown: dict[str, Any] = {
        "sweeps": found[:_MOST],
        "named": named,
        "all": len(rows),
        "more": max(0, len(found) - _MOST),
    }
    return page("home", site.common(request, "Sweeps") | shown)


def all_trials(request: Request) -> Response:
    """Trials of all sweeps in one table."""
    site: Site = request.app.state.site
    return page("all_trials", site.common(request, "Trials") | {"trials": part(request, None, ())})


def part(request: Request, sweep: str | None, searched: tuple[str, ...]) -> dict[str, Any]:
    """The table of trials with its filter, on whichever page; a wrong filter is answered there.

    Args:
        request: The page's.
        sweep: Of this sweep only.
        searched: Settings that the search varies, which are columns unless others are asked for.

    Returns:
        What the template shows.
    """
    site: Site = request.app.state.site
    asked = trials.Asked.of(request.query_params)
    known = site.reading.fields(sweep)
    usual = trials.usual_columns(searched, known)
    shown: dict[str, Any] = {
        "asked": asked,
        "path": request.scope["raw_path"].decode("ascii"),
        "columns": trials.choice(known, asked.columns or usual),
        "error": None,
    }
    try:
        shown["table"] = trials.table(
            site.reading, asked, usual, path=shown["path"], sweep=sweep, pick=True
        )
    except QueryError as error:
        shown["error"] = str(error)
    return shown
