"""The server in this process, until it is asked to end."""

from __future__ import annotations

import itertools
import signal
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from orchestrator.serving.server.checks import LOOPBACK
from orchestrator.serving.server.endpoints import Endpoints
from orchestrator.serving.server.engine import Engine
from orchestrator.serving.server.limits import Limits
from orchestrator.serving.server.metrics import Metrics
from orchestrator.serving.server.orders import Orders
from orchestrator.serving.server.served import ServedBase
from orchestrator.system.user_error import UserError


class ServerError(UserError, RuntimeError):
    """A server that cannot be started; the message says why and what to do."""


class _Server(uvicorn.Server):
    """Ends at Ctrl-C or SIGTERM as if nothing had happened, and lets what is in work end first."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Stop taking requests; a second Ctrl-C waits for nothing."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self._ending()


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address, taken before anything is loaded.

    Args:
        host: A name or number of this machine.
        port: 0: any free one.

    Returns:
        The socket.

    Raises:
        ServerError: The address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(128)
    except OSError as error:
        raise ServerError(
            f"Port {port} of {host} cannot be used: {error.strerror or error}. Name a free one, "
            f"for example `--port {port + 1}`."
        ) from None
    return taken


def serve(
    base: ServedBase,
    taken: socket.socket,
    limits: Limits,
    *,
    hosts: Sequence[str] = (),
    ready: Callable[[], None],
) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        base: The base and its adapters.
        taken: What `bound` gave.
        limits: How much is taken on.
        hosts: Names in a Host header that are this server's, beside those of the loopback.
        ready: Called once requests are answered.
    """
    metrics = Metrics()
    engine = Engine(base, limits, metrics)
    endpoints = Endpoints(engine, Orders(base, limits, itertools.count()), metrics)
    config = uvicorn.Config(
        endpoints.application([*LOOPBACK, *hosts]),
        # Nothing of requests is logged, not even which there were.
        access_log=False, log_level="warning", server_header=False, proxy_headers=False,
        lifespan="on", ws="none", timeout_graceful_shutdown=int(limits.grace) + 5,
    )  # fmt: skip
    server = _Server(config, engine.drain)
    started = server.startup

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        await started(sockets)
        if server.started:
            ready()

    server.startup = startup
    server.run(sockets=[taken])
