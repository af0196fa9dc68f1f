"""What is looked at before a request is read: who is meant, what kind it is, how long it is."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.serving.server.problems import Problem, ProblemError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class HostCheck:
    """Refuses requests for other names than the server's.

    A page of any site may have its own name lead here (DNS rebinding); its requests then carry that
    name.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        """Wrap an application.

        Args:
            app: What answers.
            hosts: Names that are the server's; "*": any.
        """
        self._app, self._hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http" and "*" not in self._hosts:
            named = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            if _without_port(named) not in self._hosts:
                problem = Problem(
                    403,
                    "The Host header does not name this server. Ask it by the address that it has "
                    "told, or start it with `--allow-host NAME`.",
                    "host_not_allowed",
                )
                await JSONResponse(problem.document, problem.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def body_of(request: Request, most: int) -> bytes:
    """A request's body.

    Args:
        request: The request.
        most: Bytes at most.

    Returns:
        The body.

    Raises:
        ProblemError: It is too long, or is not said to be JSON: a page of another site can send
            any other kind without being asked whether it may.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ProblemError(
            Problem(415, "Send JSON, with `Content-Type: application/json`.", "not_json")
        )
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise ProblemError(Problem(413, f"A request has at most {most} bytes.", "too_large"))
        parts.append(part)
    return b"".join(parts)
