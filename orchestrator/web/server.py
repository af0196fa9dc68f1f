"""Answering browsers on this machine, until the body ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from orchestrator.system.user_error import UserError
from orchestrator.web.application import application
from orchestrator.web.site import Site

HOST = "127.0.0.1"
"""No other machine is answered: the pages ask for no password."""
_START_SECONDS = 30.0
_STOP_SECONDS = 3


class ServerError(UserError, RuntimeError):
    """The pages cannot be shown; the message says why and what to do."""


def listening(port: int) -> socket.socket:
    """A socket that listens on loopback.

    Args:
        port: Where; 0: wherever is free.

    Returns:
        The socket.

    Raises:
        ServerError: The port is taken, or not to be used.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise ServerError(
            f"Port {port} of {HOST} cannot be used: {error.strerror}. Name a free one, for "
            f"example `--port {port + 1}`."
        ) from None
    return made


@contextmanager
def serving(site: Site, port: int) -> Iterator[str]:
    """The pages, for as long as the body runs.

    Args:
        site: What they are of.
        port: Where to answer; 0: wherever is free.

    Yields:
        The address, without a slash at its end.

    Raises:
        ServerError: The port cannot be used, or the server does not start.
    """
    opened = listening(port)
    config = uvicorn.Config(
        application(site), log_level="error", access_log=False, lifespan="off",
        server_header=False, timeout_graceful_shutdown=_STOP_SECONDS,
    )  # fmt: skip
    server = uvicorn.Server(config)
    # Signals are the command's: uvicorn takes them in the main thread alone.
    thread = threading.Thread(target=server.run, args=([opened],), name="pages", daemon=True)
    thread.start()
    try:
        until = time.monotonic() + _START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise ServerError(f"The server did not start on {HOST}.")
            time.sleep(0.01)
        yield f"http://{HOST}:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS + 2)
        opened.close()
        site.reading.close()
