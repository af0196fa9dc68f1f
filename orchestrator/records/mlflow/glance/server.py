"""A look at the alias `champion` on a tracking server, by its REST interface and without MLflow.

MLflow's client takes seconds to load and half a minute to give up; who only looks waits for
neither. Where a server does not answer at once, that is said, with the age of what is known.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.tags import ALIASED, CHAMPION_ALIAS, own_tags
from orchestrator.records.registry.by_hand import AliasSeen
from orchestrator.system.mlflow_environment import spare_loopback

_SECONDS = 2.0
"""For each answer."""
_QUIET_SECONDS = 30.0
"""How long a server that did not answer is not asked again by this process."""
_MOST_BYTES = 4_000_000
_OTHER_WAYS = (
    "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)  # fmt: skip
"""Variables by which only MLflow's own client can be let in."""

_silent: dict[str, tuple[float, str]] = {}
"""Until when, by `time.monotonic`, an address is not asked again, and why."""


class NotAskedError(Exception):
    """A server could not be asked; the message says why, in words that follow "because"."""


class _NoRedirect(HTTPRedirectHandler):
    """Credentials are for the server that was named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""
        return


def alias_on_server(uri: str, identity: str, name: str) -> AliasSeen | None:
    """The alias `champion` of a sweep's registered model, as a server has it.

    Args:
        uri: The server's address, `http://...` or `https://...`.
        identity: Of the storage folder there, from `storage_identity`.
        name: The sweep's name.

    Returns:
        What is there; None where there is no such model.

    Raises:
        NotAskedError: It did not answer, or answered something else.
    """
    until, why = _silent.get(uri, (0.0, ""))
    if time.monotonic() < until:
        raise NotAskedError(why)
    try:
        return _seen(_Server(uri), identity, name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = _why(error)
        _silent[uri] = (time.monotonic() + _QUIET_SECONDS, why)
        raise NotAskedError(why) from None


def _why(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"it answered {error.code} ({error.reason})"
    if isinstance(error, URLError):
        reason = error.reason
        return str(getattr(reason, "strerror", None) or reason).lower()
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return "it did not answer as MLflow does"


class _Server:
    """One server, asked for JSON."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        shown = f"[{host}]" if ":" in host else host
        port = f":{parts.port}" if parts.port else ""
        self._address = f"{parts.scheme}://{shown}{port}{parts.path.rstrip('/')}"
        self._headers = _credentials(parts.username, parts.password)
        self._opener = _opener()

    def ask(self, what: str, **fields: str) -> Mapping[str, Any]:
        """The document that the server gives for a request."""
        address = f"{self._address}/api/2.0/mlflow/{what}?{urlencode(fields)}"
        # The address is http or https, as `look` has checked.
        request = Request(address, headers=self._headers)
        with self._opener.open(request, timeout=_SECONDS) as answer:
            return json.loads(answer.read(_MOST_BYTES))


def _opener() -> OpenerDirector:
    missing = [name for name in _OTHER_WAYS if os.environ.get(name)]
    if missing:
        raise NotAskedError(f"{missing[0]} is set, which only MLflow's own client knows")
    spare_loopback()
    own = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    checked = ssl.create_default_context(cafile=own or None)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in {"true", "1"}:
        checked.check_hostname, checked.verify_mode = False, ssl.CERT_NONE
    return build_opener(_NoRedirect, HTTPSHandler(context=checked))


def _credentials(user: str | None, password: str | None) -> dict[str, str]:
    """Those of the address, else those that the environment has for MLflow."""
    if user is None:
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
        if not user and token:
            return {"Authorization": f"Bearer {token}"}
        if not user:
            return {}
    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _seen(server: _Server, identity: str, name: str) -> AliasSeen | None:
    wanted = own_tags(identity, name)
    tagged = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
    found = server.ask("registered-models/search", filter=tagged, max_results="1")
    models = found.get("registered_models") or []
    if not models:
        return None
    # A search leaves out aliases.
    model = server.ask("registered-models/get", name=models[0]["name"])["registered_model"]
    ours = _tags(model).get(ALIASED)
    aliases = {one["alias"]: str(one["version"]) for one in model.get("aliases") or []}
    version, tags = aliases.get(CHAMPION_ALIAS), dict[str, str]()
    if version is not None and version != ours:
        # Only of a version that another person chose is asked which it is.
        about = server.ask("model-versions/get", name=model["name"], version=version)
        own = _tags(about["model_version"])
        tags = {key.removeprefix(TAG): value for key, value in own.items()}
    return AliasSeen(model["name"], version, ours, tags)


def _tags(document: Mapping[str, Any]) -> dict[str, str]:
    return {str(tag["key"]): str(tag.get("value", "")) for tag in document.get("tags") or []}
