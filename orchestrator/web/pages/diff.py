"""Two trials beside each other, and several sweeps."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.card_differences import diff_cards
from orchestrator.api.diff import is_of_cards
from orchestrator.api.differences import diff_trials
from orchestrator.measures.objectives import NATURAL_DIRECTIONS
from orchestrator.records.scores import flat
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.registry.champions.adapters import FoundAdapter, find_adapter
from orchestrator.report.figures import measure_words
from orchestrator.report.tables import SIGNED
from orchestrator.system.formatting import show
from orchestrator.system.user_error import UserError
from orchestrator.web import addresses
from orchestrator.web.charts import course, front
from orchestrator.web.pages.sweep import course_rows
from orchestrator.web.reading import NotFoundError, Reading
from orchestrator.web.rendering import cell, compact, page
from orchestrator.web.site import Site

MOST_SWEEPS = 8
_MOST_MARKS = 20_000
"""Of all sweeps together; more is one cloud."""


def diff(request: Request) -> Response:
    """Two trials, or two adapters by their cards, of one sweep or of two."""
    site: Site = request.app.state.site
    asked = [one for one in request.query_params.getlist("trial") if one][:2]
    shown: dict[str, Any] = {"asked": asked, "error": None, "found": None}
    if len(asked) == 2:
        try:
            shown["found"] = _differences(site.reading, *asked)
        except (NotFoundError, UserError) as error:
            shown["error"] = str(error)
    elif asked:
        shown["error"] = "Two trials are compared; one was chosen. Choose another in the table."
    return page("diff", site.common(request, "Trials") | shown)


def _differences(reading: Reading, left: str, right: str) -> dict[str, Any]:
    if is_of_cards(left, right):
        found = [_adapter(reading, reference) for reference in (left, right)]
        names = [one.key.reference for one in found]
        where = [addresses.card_page(one.folder.path.name, one.key.trial, one.card["learnt"])
                 for one in found]  # fmt: skip
        document = diff_cards(*found)
    else:
        sides = [_side(reading, reference) for reference in (left, right)]
        names = [f"{view.name}/{trial.name}" for view, trial in sides]
        where = [addresses.trial_page(view.name, trial.name) for view, trial in sides]
        document = diff_trials(*sides)
    measures = [
        (measure_words(name), *(_written(name, pair[side]) for side in ("left", "right")),
         _written(name, pair["difference"], signed=True))
        for name, pair in document["measures"].items()
    ]  # fmt: skip
    return {
        "names": names,
        "addresses": where,
        "settings": _pairs(document["settings"]),
        "provenance": _pairs(document["provenance"]),
        "measures": measures,
        "scores": document["scores"],
        "interval": document["interval"],
        "forgotten": document.get("forgotten") or {},
        "test": document.get("test") or {},
        "test_interval": document.get("test_interval"),
    }


def _adapter(reading: Reading, reference: str) -> FoundAdapter:
    """An adapter by its name; a name that leads out of the storage folder is no sweep's."""
    reading.folder(reference.partition("/")[0])
    return find_adapter(reading.storage, reference)


def _side(reading: Reading, reference: str) -> tuple[SweepState, TrialRecord]:
    sweep, _, trial = reference.partition("/")
    view = reading.state(sweep, [trial])
    view.name = sweep  # its folder's, which may have been renamed
    return view, view.trial(trial)


def _written(name: str, value: float, *, signed: bool = False) -> str:
    digits = 0 if name.startswith("cost") else 3
    return show(value, signed=signed or name in SIGNED, digits=digits)


def _pairs(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(path, cell(pair["left"], path), cell(pair["right"], path))
            for path, pair in found.items()]  # fmt: skip


def compare(request: Request) -> Response:
    """Several sweeps: their fronts in one picture, what was asked, what they have come to."""
    site: Site = request.app.state.site
    names = _sweeps_asked(request)
    rows, error = [], None
    views: list[SweepState] = []
    try:
        rows = [site.reading.sweep_row(name) for name in names]
        views = [site.reading.state(name) for name in names]
    except NotFoundError as missing:
        error = str(missing)
    asked = [flat(view.experiment) for view in views]
    paths = dict.fromkeys(path for one in asked for path in one)
    differing = [
        (path, [cell(one.get(path), path) for one in asked])
        for path in paths
        if len({repr(one.get(path)) for one in asked}) > 1 and path not in {"name", "storage"}
    ]
    shown = {
        "names": names,
        "rows": rows,
        "differing": differing,
        "error": error or (None if len(names) > 1 else "Choose at least two sweeps to compare."),
        "x": request.query_params.get("x", "forgetting"),
        "y": request.query_params.get("y", "gain"),
        "measures": [(name, measure_words(name)) for name in NATURAL_DIRECTIONS],
    }
    return page("compare", site.common(request, "Sweeps") | shown)


def _sweeps_asked(request: Request) -> list[str]:
    return list(dict.fromkeys(request.query_params.getlist("sweep")))[:MOST_SWEEPS]


def compare_front(request: Request) -> Response:
    """What the picture of several fronts draws."""
    site: Site = request.app.state.site
    wanted = request.query_params
    x = wanted["x"] if wanted.get("x") in NATURAL_DIRECTIONS else "forgetting"
    y = wanted["y"] if wanted.get("y") in NATURAL_DIRECTIONS else "gain"
    names = _sweeps_asked(request)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        known = {*site.reading.fields(name), "sweep"}
        columns = [one for one in front.needed(x, y) if one in known]
        if {x, y} <= known:
            found[name] = site.reading.search(
                f"{x} is not missing and {y} is not missing", limit=_MOST_MARKS // len(names),
                order=["-on_front"], sweep=name, columns=columns,
            ).rows  # fmt: skip
    return compact(front.compared(found, x, y))


def compare_course(request: Request) -> Response:
    """What the picture of several searches' course draws."""
    site: Site = request.app.state.site
    drawn = [
        course.volume(*course_rows(site.reading, name), name) for name in _sweeps_asked(request)
    ]
    whole = [one for one in drawn if "lines" in one]
    if not whole:
        return compact({"empty": "No sweep has two ended trials so far."})
    return compact(whole[0] | {"lines": [line for one in whole for line in one["lines"]]})
