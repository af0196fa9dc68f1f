"""Templates and what they are given: every value is escaped, and data stand in no script."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

import orchestrator.report
from orchestrator.registry.query.fields import MOMENTS
from orchestrator.system.formatting import moment, show, show_duration, show_interval, show_setting
from orchestrator.system.strict_json import without_nan
from orchestrator.web import addresses

STATIC = Path(__file__).parent / "static"
_TEMPLATES = Path(__file__).parent / "templates"
# What HTML allows in no text; a task file may hold anything.
_COMPACT = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def page(template: str, values: Mapping[str, Any], *, status: int = 200) -> HTMLResponse:
    """A page.

    Args:
        template: Its name, without `.html.jinja`.
        values: What it shows.
        status: Of the answer.

    Returns:
        The answer; browsers keep no copy, as the next line of a journal changes it.
    """
    text = environment().get_template(f"{template}.html.jinja").render(values)
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    # Half of a pair of surrogates, which a journal's JSON may hold, has no bytes.
    content = text.encode("utf-8", "replace")
    return HTMLResponse(content, status_code=status, headers={"cache-control": "no-store"})


def compact(document: Any) -> Response:
    """What a chart draws, as JSON without spaces; NaN is null."""
    try:
        text = _COMPACT.encode(document)
    except ValueError:  # of ten thousand numbers each would be looked at in Python
        text = _COMPACT.encode(without_nan(document))
    return Response(text, media_type="application/json", headers={"cache-control": "no-store"})


@cache
def static_version() -> str:
    """What stands in the addresses of scripts and styles, so that browsers may keep them."""
    found = sha256()
    for path in sorted(STATIC.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:12]


@cache
def environment() -> Environment:
    """Where templates come from: ours, and those that the report is made of."""
    report = Path(orchestrator.report.__file__).parent / "templates"
    made = Environment(
        loader=ChoiceLoader([FileSystemLoader(_TEMPLATES), FileSystemLoader(report)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"at": addresses, "version": static_version()}
    made.filters |= {
        "number": show,
        "interval": show_interval,
        "duration": show_duration,
        "moment": moment,
        "cell": cell,
        "base": base_name,
    }
    return made


def cell(value: Any, path: str = "") -> str:
    """A value of a table as it is written."""
    if value is None:
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(cell, value))
        case int() | float():
            return _number(value, path)
        case _:
            return str(value)


def base_name(name: str | None) -> str:
    """A base model's name; of a folder the last part, as its place is no name."""
    return Path(name).name if name and Path(name).is_absolute() else name or "-"


def _number(value: float, path: str) -> str:
    if path in MOMENTS:
        return moment(value)
    if path == "cost_s" or path.endswith("seconds"):
        return show_duration(value)
    return f"{value:,.0f}" if path.endswith("tokens") else show_setting(path, value)
