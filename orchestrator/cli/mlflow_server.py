"""MLflow's own pages on this machine, opened on the right view."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.event import Line
from orchestrator.records.journal import is_being_written
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.report.written import PAGE, write_report
from orchestrator.system.mlflow_environment import own_mlflow
from orchestrator.system.user_error import UserError

HOST = "127.0.0.1"
"""Nobody but this machine is answered: MLflow's pages ask for no password."""
START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_MEASURES = ("gain", "forgetting", "probe_drift")
_SETTINGS = (
    "method.adapter.kind", "method.adapter.r", "method.adapter.alpha", "training.learning_rate",
)  # fmt: skip


class BrowserError(UserError, RuntimeError):
    """MLflow's pages could not be started; the message says why and what to do."""


@dataclass(frozen=True)
class SweepPages:
    """Where a sweep is to be seen."""

    sweep: str
    runs: str
    """Its trials in MLflow's pages, from the `#` of the address on."""
    report: str | None
    """Its report there; None while the sweep runs, which attaches it at its end."""
    file: Path | None
    """Its report as a file, if one was written."""


def prepare(folder: Path, lines: Sequence[Line], uri: str) -> SweepPages:
    """Bring a sweep's runs, report and view into MLflow.

    Args:
        folder: The sweep's folder.
        lines: Its journal.
        uri: Where MLflow records it.

    Returns:
        Where they are.

    Raises:
        TrackingError: If MLflow cannot be used.
        OSError: If the report cannot be written.
    """
    view, projection = SweepState.of(lines), Projection(uri, folder)
    report = None
    file = SweepFolder(folder).report / PAGE
    # The driver of a running sweep writes to MLflow itself.
    if not is_being_written(folder):
        file = write_report(lines, folder)
        projection.catch_up(lines, running=False)
        report = projection.attach(file.parent)
    runs = projection.share_view(lines, columns(view))
    return SweepPages(folder.name, runs, report, file if file.is_file() else None)


def columns(view: SweepState) -> list[str]:
    """The columns that MLflow's pages open with: measures, then the method's settings."""
    measures = dict.fromkeys([*_MEASURES, *(view.experiment.get("objectives") or {})])
    known = {path for trial in view.trials for path in view.settings(trial)}
    settings = dict.fromkeys([*(p for p in _SETTINGS if p in known), *view.searched_settings])
    return [*(f"metrics.{name}" for name in measures), *(f"params.{path}" for path in settings)]


@contextmanager
def mlflow_pages(uri: str, port: int, storage: Path) -> Iterator[str]:
    """MLflow's pages on this machine, for as long as the body runs.

    Args:
        uri: A database that MLflow records into.
        port: Where to answer.
        storage: An existing folder that the server runs in.

    Yields:
        The address, without a slash at its end.

    Raises:
        BrowserError: If the port is taken, or the server does not answer.
    """
    _check_port(port)
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    environment = own_mlflow(os.environ) | {
        # Not on the command line, which every user of the machine can read.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for judges of chats; five more processes
    }
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the whole group.
        server = subprocess.Popen(
            command, cwd=storage, env=environment, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            address = f"http://{HOST}:{port}"
            if not _answers(address, server):
                log.seek(0)
                said = log.read().decode(errors="replace").strip().splitlines()[-8:]
                raise BrowserError(
                    f"MLflow's server did not answer at {address}. It said:\n  " + "\n  ".join(said)
                )
            yield address
        finally:
            _end(server)


def _check_port(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise BrowserError(
                f"Port {port} of {HOST} cannot be used: {error.strerror}. Name a free one, for "
                f"example `--port {port + 1}`."
            ) from None


def _answers(address: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers; False when it ended or took too long."""
    # Not through a proxy: this is the same machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        with suppress(urllib.error.URLError, OSError), opener.open(f"{address}/health", timeout=5):
            return True
        time.sleep(0.2)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and whatever it started: its process group, and nothing else."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SECONDS)
            break
    # Workers that outlived the server are in its group still.
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let being asked to end be as Ctrl-C: Python would leave MLflow's server behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_for_interrupt() -> None:
    """Return at Ctrl-C, or when asked to end."""
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
