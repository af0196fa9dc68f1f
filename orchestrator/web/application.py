"""The addresses of a server, and what answers each."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from orchestrator.system.user_error import UserError
from orchestrator.web.guard import Guarded, RefusedError
from orchestrator.web.pages import champions, diff, home, lineage, sweep, trial
from orchestrator.web.pages.files import kept_file
from orchestrator.web.reading import NotFoundError
from orchestrator.web.rendering import STATIC, page
from orchestrator.web.site import Site

_FOREVER = "public, max-age=31536000, immutable"
# A report holds its own script. In a sandbox it is of no origin: it reads no page of ours.
_SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:"
)
_TYPES = {
    ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
}  # fmt: skip


def application(site: Site) -> Guarded:
    """The pages of a storage folder.

    Args:
        site: What they share.

    Returns:
        An ASGI application that answers loopback's names only.
    """
    of_sweep, of_trial = "/sweeps/{sweep}", "/sweeps/{sweep}/trials/{trial}"
    data = "/data/sweeps/{sweep}"
    routes = [
        Route("/", home.home),
        Route("/trials", home.all_trials),
        Route("/diff", diff.diff),
        Route("/compare", diff.compare),
        Route("/champions", champions.champions),
        Route("/champions/{name}", champions.one_champion),
        Route("/champions/{name}", champions.change_champion, methods=["POST"]),
        Route(of_sweep, sweep.sweep),
        Route(f"{of_sweep}/lineage", lineage.lineage),
        Route(f"{of_sweep}/report", report),
        Route(of_trial, trial.trial),
        Route(of_trial, trial.change_trial, methods=["POST"]),
        Route(f"{of_trial}/cards/{{learnt:int}}", trial.card),
        Route(f"{of_trial}/files/{{path:path}}", one_file),
        Route("/data/compare/front", diff.compare_front),
        Route("/data/compare/course", diff.compare_course),
        Route(f"{data}/state", sweep.state_data),
        Route(f"{data}/front", sweep.front_data),
        Route(f"{data}/course", sweep.course_data),
        Route(f"{data}/parallel", sweep.parallel_data),
        Route(f"{data}/lineage", lineage.lineage_data),
        Route(f"{data}/trials/{{trial}}/loss", trial.loss_data),
        Route(f"{data}/trials/{{trial}}/scores", trial.score_data),
        Route("/static/{version}/{name}", static),
        Route("/mlflow", mlflow),
    ]
    made = Starlette(
        routes=[Route("/enter/{key}", enter), *routes],
        exception_handlers={
            NotFoundError: _answering(404, "Not found"),
            HTTPException: _http_error,
            RefusedError: _answering(403, "Not allowed"),
            UserError: _answering(409, "That does not work"),
            500: _our_error,
        },
    )
    made.state.site = site
    return Guarded(made)


def _answering(status: int, title: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    """What answers an error: a page with its message."""

    async def answer(request: Request, error: Exception) -> Response:
        return _error_page(request, status, title, str(error))

    return answer


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = "There is no page at this address." if error.status_code == 404 else error.detail
    return _error_page(request, error.status_code, error.detail, words)


async def _our_error(request: Request, error: Exception) -> Response:
    # What it was stands where the server runs, with its trace.
    words = f"The page could not be made: {type(error).__name__}. The terminal says more."
    return _error_page(request, 500, "An error of ours", words)


def _error_page(request: Request, status: int, title: str, words: str) -> Response:
    site: Site = request.app.state.site
    shown = site.common(request, "") | {"title": title, "words": words, "again": None}
    return page("error", shown, status=status)


def enter(request: Request) -> Response:
    """Let a browser in that has the key of the terminal, and leave the key out of the address."""
    site: Site = request.app.state.site
    key = request.path_params["key"]
    if not site.changes.is_key(key):
        raise RefusedError("This is not the key that this server has printed when it started.")
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(site.changes.cookie, key, httponly=True, samesite="strict", path="/")
    return answer


def static(request: Request) -> Response:
    """A script, a style or a picture; their address changes with what is in them."""
    name = request.path_params["name"]
    file = STATIC / name
    if not re.fullmatch(r"[\w.-]+", name) or file.suffix not in _TYPES or not file.is_file():
        raise HTTPException(404)
    return FileResponse(file, media_type=_TYPES[file.suffix], headers={"cache-control": _FOREVER})


def one_file(request: Request) -> Response:
    """A file of a trial, to be kept; the browser is not to open it."""
    folder = trial.trial_files(request)
    file = kept_file(folder, request.path_params["path"])
    return FileResponse(
        file, media_type="application/octet-stream", filename=file.name,
        headers={"cache-control": "no-store"},
    )  # fmt: skip


def report(request: Request) -> Response:
    """The report that was written last, apart from everything else here."""
    site: Site = request.app.state.site
    name = request.path_params["sweep"]
    file = site.reading.folder(name).report / "index.html"
    if not file.is_file():
        raise NotFoundError(f"No report of {name} was written; `orchestrate report {name}` does.")
    return FileResponse(file, media_type="text/html", headers={"content-security-policy": _SANDBOX})


def mlflow(request: Request) -> Response:
    """On to MLflow's pages, once they answer.

    Args:
        request: The page's.

    Returns:
        The way there, or a page that asks again by itself.

    Raises:
        RefusedError: Another site asks, which must not start a server here.
        HTTPException: They are left out.
    """
    site: Site = request.app.state.site
    if site.mlflow is None:
        raise HTTPException(404)
    if request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise RefusedError("Open this address yourself.")
    wanted = request.query_params.get("sweep")
    if wanted is not None:
        site.reading.folder(wanted)
    where = site.mlflow.address(wanted)
    if where is not None:
        return RedirectResponse(where, status_code=303)
    words = "MLflow's server is starting, which takes a moment. This page then goes on to it."
    again = "/mlflow" if wanted is None else f"/mlflow?{urlencode({'sweep': wanted})}"
    shown = site.common(request, "") | {"title": "MLflow", "words": words, "again": again}
    return page("error", shown)
