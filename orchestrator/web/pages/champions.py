"""Champions: who is in use, why, what it knows; its history; and a change of it, with a reason."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.registry.change import Change
from orchestrator.registry.champions.champion import (
    Champion,
    champion,
    history,
    no_champion,
)
from orchestrator.registry.champions.changing import promote, rollback
from orchestrator.registry.champions.comparison import Comparison, compare
from orchestrator.system.user_error import UserError
from orchestrator.web import addresses
from orchestrator.web.guard import RefusedError, checked_form
from orchestrator.web.reading import NotFoundError
from orchestrator.web.rendering import page
from orchestrator.web.site import Site

WORDS = {
    "decided": "chosen by the verdict",
    "promoted": "promoted",
    "rolled_back": "rolled back to",
    "moved": "alias moved in MLflow",
    "withdrawn": "alias taken away in MLflow",
    "renamed": "renamed in MLflow",
    "deleted": "deleted in MLflow",
    "restored": "restored in MLflow",
}


def champions(request: Request) -> Response:
    """Every name that has or had a champion."""
    site: Site = request.app.state.site
    rows: list[dict[str, Any]] = []
    for name in site.reading.champion_names():
        try:
            found = champion(site.reading.storage, name, tracking_uri=site.tracking_uri)
        except UserError as error:
            rows.append({"name": name, "problem": str(error)})
        else:
            rows.append({"name": name, "problem": None, "champion": found})
    return page("champions", site.common(request, "Champions") | {"rows": rows})


def one_champion(request: Request) -> Response:
    """A champion.

    Args:
        request: The page's.

    Returns:
        The page; also of a sweep without a champion, where one can be promoted.

    Raises:
        NotFoundError: There is neither; the message names the nearest.
    """
    site: Site = request.app.state.site
    name = request.path_params["name"]
    if name not in site.reading.champion_names() and name not in site.reading.sweep_names():
        raise NotFoundError(no_champion(site.reading.storage, name))
    return _shown(request, name)


def _shown(
    request: Request, name: str, *, error: str | None = None, given: dict[str, str] | None = None,
    status: int = 200,
) -> Response:  # fmt: skip
    site: Site = request.app.state.site
    storage, uri = site.reading.storage, site.tracking_uri
    found, changes, problem = None, [], None
    try:
        changes = history(storage, name, tracking_uri=uri)[::-1]
        found = champion(storage, name, tracking_uri=uri)
    except UserError as missing:
        problem = str(missing)
    asked = request.query_params.get("challenger", "").strip()
    compared, wrong = None, error
    if asked and found is not None:
        try:
            compared = compare(storage, name, asked, tracking_uri=uri)
        except UserError as missing:
            wrong = str(missing)
    shown = {
        "name": name,
        "champion": found,
        "problem": problem,
        "challenger": asked,
        "compared": _readings(compared) if compared else None,
        "against": compared.against if compared else (),
        "error": wrong,
        "given": given or {},
        "history": [_change(change) for change in changes],
        "matrix": _matrix(found) if found else None,
        "address": adapter_page(found.key) if found else None,
    }
    return page("champion", site.common(request, "Champions") | shown, status=status)


def adapter_page(key: AdapterKey) -> str:
    """The page of an adapter's card."""
    return addresses.card_page(key.sweep, key.trial, key.learnt)


def _change(change: Change) -> dict[str, Any]:
    gain = (change.evidence.get("measures") or {}).get("gain")
    return {
        "words": WORDS.get(change.event, change.event.replace("_", " ")),
        "adapter": change.adapter,
        "address": adapter_page(change.adapter) if change.adapter else None,
        "before": change.before,
        "who": change.who,
        "time": change.time,
        "reason": change.reason,
        "stands": change.stands,
        "overridden": change.overridden,
        "gain": gain,
        "gain_interval": change.evidence.get("gain_interval"),
        "what": change.what,
        "now": change.now,
    }


def _matrix(found: Champion) -> list[dict[str, Any]]:
    """By task, what the champion knows and what it has forgotten since it was best there."""
    rows = found.found.card["matrix"]
    if not rows:
        return []
    last, test = rows[-1]["scores"], (found.found.card.get("test") or {}).get("scores") or {}
    made: list[dict[str, Any]] = []
    for task, now in last.items():
        after = [row["scores"][task]["value"] for row in rows[1:]]
        since = [score for score in after if score is not None]
        base = rows[0]["scores"][task]["value"]
        made.append({
            "task": task,
            "now": now,
            "base": base,
            "gained": None if None in (base, now["value"]) else now["value"] - base,
            "lost": None if not since or now["value"] is None else max(since) - now["value"],
            "test": test.get(task),
        })  # fmt: skip
    return made


def _readings(compared: Comparison) -> list[dict[str, Any]]:
    return [
        {"data": one.data, "tasks": one.tasks, "difference": one.difference,
         "interval": one.interval}
        for one in compared.readings
    ]  # fmt: skip


async def change_champion(request: Request) -> Response:
    """Promote an adapter, or roll back, as a form of ours asks.

    Args:
        request: A POST.

    Returns:
        The way to the champion's page, or that page with what was wrong.

    Raises:
        RefusedError: The form may change nothing.
    """
    site: Site = request.app.state.site
    name = request.path_params["name"]
    fields = await checked_form(request, site.changes)
    action, reason = fields.get("action"), fields.get("reason", "")
    storage, uri = site.reading.storage, site.tracking_uri
    if action not in {"promote", "rollback"}:
        raise RefusedError("Either promote or rollback is asked for.")

    def changed() -> Response:
        try:
            if action == "promote":
                promote(storage, fields.get("challenger", "").strip(), name=name, reason=reason,
                        force=fields.get("force") == "yes", tracking_uri=uri)  # fmt: skip
            else:
                rollback(storage, name, reason=reason, tracking_uri=uri)
        except UserError as error:
            return _shown(request, name, error=_for_a_page(str(error)), given=fields, status=409)
        # Not the form's own answer: a reload would send it again.
        return RedirectResponse(addresses.champion_page(name), status_code=303)

    return await run_in_threadpool(changed)


def _for_a_page(message: str) -> str:
    """A message that names the options of a command, for someone in front of a form."""
    return (
        message.replace("Add --force with a reason", "Tick the box below")
        .replace(": `--reason TEXT`", "")
    )  # fmt: skip
