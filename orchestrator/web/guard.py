"""Who is answered, and what an answer may do in the browser.

A page on loopback is within reach of every page that the browser shows. So a request must name
loopback as its host (another site's name that was pointed here is refused: DNS rebinding), and
what changes anything must come from a page of ours, from a browser that was let in by the key of
the terminal, with that browser's own token in the form.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset(("127.0.0.1", "localhost", "[::1]"))
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
MOST_BYTES = 64 * 1024
"""A longer form is refused."""


class RefusedError(Exception):
    """A change that is not allowed; the message says why."""


@dataclass(frozen=True)
class Changes:
    """Whether and by whom something may be changed.

    Anyone on the machine can open a loopback address: the key in the address that the terminal
    shows tells the person who started the server from other users.
    """

    allowed: bool
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    cookie: str = field(default_factory=lambda: f"orchestrate-{secrets.token_hex(4)}")
    """Of this server alone: cookies are shared by all ports of a host."""

    def knows(self, request: Request) -> bool:
        """Whether the browser was let in."""
        given = request.cookies.get(self.cookie, "")
        return self.allowed and hmac.compare_digest(given.encode(), self.key.encode())

    @property
    def token(self) -> str:
        """What a form must carry; of no use without the cookie, and not the key itself."""
        return hmac.new(self.key.encode(), b"form", hashlib.sha256).hexdigest()

    def is_key(self, given: str) -> bool:
        """Whether a text is the key."""
        return self.allowed and hmac.compare_digest(given.encode(), self.key.encode())


async def checked_form(request: Request, changes: Changes) -> dict[str, str]:
    """The fields of a form that may change something.

    Args:
        request: A POST.
        changes: Who may.

    Returns:
        Each field's first value, without the token.

    Raises:
        RefusedError: If changes are not allowed, or the form is not one of ours.
    """
    if not changes.allowed:
        raise RefusedError("This server only reads. Start it with `--allow-changes`.")
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    ours = origin is not None and urlsplit(origin).netloc == request.headers["host"]
    if not ours or site != "same-origin":
        raise RefusedError("The form was not sent by a page of this server.")
    if not changes.knows(request):
        raise RefusedError(
            "This browser was not let in. Open the address that `orchestrate ui --allow-changes` "
            "has printed, which holds a key."
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise RefusedError("A form is expected.")
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise RefusedError("The form is too long.")
    try:
        fields = parse_qs(content.decode(), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise RefusedError("The form cannot be read.") from None
    token = fields.pop("token", [""])[0]
    if not hmac.compare_digest(token.encode(), changes.token.encode()):
        raise RefusedError("The form's token is not this server's. Reload the page.")
    return {name: values[0] for name, values in fields.items()}


def names_loopback(host: str) -> bool:
    """Whether a Host header is of loopback, with any port."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    return name.lower() in LOOPBACK


class Guarded:
    """An application that answers loopback's names only, and says what its pages may do."""

    def __init__(self, inner: ASGIApp) -> None:
        """Guard an application.

        Args:
            inner: The application.
        """
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if not names_loopback(Headers(scope=scope).get("host", "")):
            refused = PlainTextResponse(
                "Only requests to 127.0.0.1 or localhost are answered.\n", status_code=421
            )
            await refused(scope, receive, guarded)
            return
        await self._inner(scope, receive, guarded)
