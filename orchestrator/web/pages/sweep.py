"""The page of a sweep, and what its charts draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.query.errors import QueryError
from orchestrator.report.figures import measure_words
from orchestrator.report.head_section import verdict
from orchestrator.web import addresses
from orchestrator.web.charts import course, front, parallel
from orchestrator.web.pages import home
from orchestrator.web.reading import Reading
from orchestrator.web.rendering import compact, page
from orchestrator.web.site import Site

_FRONT_ROWS = 30
_ENDED_BADLY = 20


def sweep(request: Request) -> Response:
    """A sweep: what it has come to, its front, its course, its trials."""
    site: Site = request.app.state.site
    name = request.path_params["sweep"]
    reading = site.reading
    view = reading.state(name)
    if view.champion is not None:
        view = reading.state(name, [one for one in (view.champion, view.runner_up) if one])
    row = reading.sweep_row(name)
    fields = reading.fields(name)
    searched = tuple(path for path in view.searched_settings if path in fields)
    kind, title, sentences = verdict(view)
    if not view.ended:
        sentences = [_best_so_far(reading, name)]
    measures = [one for one in fields if one in NATURAL_DIRECTIONS]
    shown = {
        "name": name,
        "row": row,
        "running": reading.running(name),
        "revision": reading.revision(name),
        "verdict": {"kind": kind, "title": title, "sentences": [s for s in sentences if s]},
        "extends": view.experiment.get("extends"),
        "experiment": view.yaml,
        "front": _front(request, reading, name, measures),
        "axes": _axes(request, fields, searched),
        "trials": home.part(request, name, searched),
        "stopped": _ended_so(reading, name, "STOPPED", "stopped"),
        "failed": _ended_so(reading, name, "FAILED", "reason"),
        "report": reading.folder(name).report.joinpath("index.html").is_file(),
    }
    return page("sweep", site.common(request, "Sweeps") | shown)


def _best_so_far(reading: Reading, sweep_name: str) -> str:
    found = reading.search(
        "state = COMPLETE and gain is not missing", order=["-gain"], limit=1, sweep=sweep_name,
        columns=["trial", "gain"],
    ).rows  # fmt: skip
    if not found:
        return "No trial has been completed so far."
    return f"Best so far: {found[0]['trial']}, gain {found[0]['gain']:+.3f}."


def _measures_asked(request: Request, measures: list[str]) -> tuple[str, str]:
    """The two measures of the picture of the front, as asked for in the address."""
    wanted = request.query_params
    known = measures or ["gain"]
    x = wanted.get("x") if wanted.get("x") in known else None
    y = wanted.get("y") if wanted.get("y") in known else None
    usual = "forgetting" if "forgetting" in known else known[0]
    return x or usual, y or ("gain" if "gain" in known else known[-1])


def _front(
    request: Request, reading: Reading, sweep_name: str, measures: list[str]
) -> dict[str, Any]:
    """The picture of the front, and the same as a table."""
    x, y = _measures_asked(request, measures)
    shown = list(dict.fromkeys(["gain", "forgetting", "probe_drift", x, y]))
    shown = [name for name in shown if name in measures]
    found = reading.search(
        "on_front = true", order=["-gain"] if "gain" in measures else [], limit=_FRONT_ROWS,
        sweep=sweep_name, columns=["sweep", "trial", "champion", front.KIND, *shown,
                                   *(("gain_low", "gain_high") if "gain" in measures else ())],
    ) if front.KIND in reading.fields(sweep_name) else None  # fmt: skip
    return {
        "source": addresses.with_query(addresses.data(sweep_name, "front"), {"x": x, "y": y}),
        "x": x,
        "y": y,
        "measures": [(name, measure_words(name)) for name in measures],
        "columns": [(name, measure_words(name)) for name in shown],
        "rows": found.rows if found else [],
        "total": found.total if found else 0,
    }


def _axes(request: Request, fields: list[str], searched: tuple[str, ...]) -> dict[str, Any]:
    """The axes of the parallel coordinates: those asked for, or what is searched and weighed."""
    asked = [one for one in request.query_params.getlist("axes") if one in fields]
    usual = [*searched[: parallel.MOST_AXES - 3], "forgetting", "probe_drift", "gain"]
    chosen = asked or [one for one in usual if one in fields]
    numbers = [one for one in fields if one in NATURAL_DIRECTIONS or "." in one]
    return {
        "chosen": chosen[: parallel.MOST_AXES],
        "choice": [(one, one in chosen) for one in dict.fromkeys([*chosen, *numbers])],
        "most": parallel.MOST_AXES,
    }


def _ended_so(reading: Reading, sweep_name: str, state: str, why: str) -> dict[str, Any]:
    """The trials that ended in a state other than complete, and why."""
    found = reading.search(
        f"state = {state}", order=["-ended"], limit=_ENDED_BADLY, sweep=sweep_name,
        columns=["trial", "task", "learnt", "seconds", why],
    )  # fmt: skip
    where = {"where": f"state = {state}"}
    return {
        "rows": [row | {"why": row.get(why)} for row in found.rows],
        "total": found.total,
        "address": f"{addresses.with_query(addresses.sweep_page(sweep_name), where)}#trials",
    }


def front_data(request: Request) -> Response:
    """What the picture of a front draws."""
    site: Site = request.app.state.site
    name = request.path_params["sweep"]
    fields = site.reading.fields(name)
    x, y = _measures_asked(request, [one for one in fields if one in NATURAL_DIRECTIONS])
    columns = [one for one in front.needed(x, y) if one in {*fields, "sweep"}]
    rows = site.reading.search(
        f"{x} is not missing and {y} is not missing", limit=None, sweep=name, columns=columns
    ).rows if {x, y} <= set(fields) else []  # fmt: skip
    return compact(front.scatter(rows, name, x, y))


def course_data(request: Request) -> Response:
    """What the picture of the hypervolume draws."""
    site: Site = request.app.state.site
    name = request.path_params["sweep"]
    return compact(course.volume(*course_rows(site.reading, name), name))


def course_rows(
    reading: Reading, sweep_name: str
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The rows and the objectives that a picture of a search's course is made of."""
    objectives = dict(reading.state(sweep_name).experiment.get("objectives") or {})
    fields = reading.fields(sweep_name)
    known = {name: better for name, better in objectives.items() if name in fields}
    rows = reading.search(
        "ended is not missing", order=["ended"], limit=None, sweep=sweep_name,
        columns=course.needed(known),
    ).rows  # fmt: skip
    return rows, known


def parallel_data(request: Request) -> Response:
    """What the parallel coordinates draw: the front, and as many others as can be told apart."""
    site: Site = request.app.state.site
    name = request.path_params["sweep"]
    fields = site.reading.fields(name)
    paths = [one for one in request.query_params.getlist("axes") if one in fields]
    where = request.query_params.get("where", "").strip()
    columns = list(dict.fromkeys(["trial", "on_front", "champion", *paths]))
    try:
        found = site.reading.search(
            where, order=["-on_front"], limit=parallel.MOST_LINES, sweep=name, columns=columns
        )
    except QueryError as error:
        return compact({"empty": str(error)})
    view = site.reading.state(name)
    drawn = parallel.parallel(found.rows, paths, _logarithmic(view), where)
    if found.total > len(found.rows):
        drawn["note"] = (
            f"The front and the first {len(found.rows):,} of {found.total:,} trials are drawn; a "
            "filter of the table holds here as well."
        )
    return compact(drawn)


def _logarithmic(view: SweepState) -> dict[str, bool]:
    space = (view.experiment.get("search") or {}).get("space") or {}
    return {path: any("log" in key for key in domain) for path, domain in space.items()
            if isinstance(domain, dict)}  # fmt: skip


def state_data(request: Request) -> Response:
    """Whether a sweep's journal has grown, for pages that are open."""
    site: Site = request.app.state.site
    name = request.path_params["sweep"]
    row = site.reading.sweep_row(name)
    words = f"{row['over']} of {row['total'] or row['trials']} trials have ended"
    answer = {"revision": site.reading.revision(name), "words": words}
    return JSONResponse(answer, headers={"cache-control": "no-store"})
