"""MLflow's pages beside ours: their server is started by the first who asks for it.

It is a process of its own at an address of its own. Starting it takes seconds that our pages need
not wait for, and what MLflow shows (artifacts of whoever logged them) may hold scripts, which must
not be of the origin where a champion can be promoted.
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.cli import mlflow_server
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.address import is_database, recorded_uri
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.begun import begun_sweeps


class MlflowBeside:
    """MLflow's pages on the sweeps of a storage folder; `with` ends the servers it has started."""

    def __init__(self, storage: Path, tracking_uri: str | None) -> None:
        """Start nothing yet.

        Args:
            storage: The folder that holds the sweeps.
            tracking_uri: Where MLflow records; None: as each sweep says.
        """
        self._storage, self._uri = storage, tracking_uri
        self._servers = ExitStack()
        self._addresses: dict[str, str] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._lock = threading.Lock()
        self._asked: dict[str | None, Future[str]] = {}

    def address(self, sweep: str | None) -> str | None:
        """Where they answer, brought up to date.

        Args:
            sweep: Opened on the trials of this sweep; None: on all.

        Returns:
            The address; None while it is made ready: ask again.

        Raises:
            UserError: They cannot be shown; the message says why.
        """
        with self._lock:
            asked = self._asked.get(sweep)
            if asked is None:
                self._asked[sweep] = self._worker.submit(self._ready, sweep)
                return None
            if not asked.done():
                return None
            # Whoever asks later is shown what has come since.
            del self._asked[sweep]
        return asked.result()

    def _ready(self, sweep: str | None) -> str:
        begun = begun_sweeps(self._storage)
        folder = self._storage / sweep if sweep else begun[-1] if begun else None
        lines = read_journal(folder) if folder is not None else []
        experiment = SweepState.of(lines[:1]).experiment
        uri = recorded_uri(experiment, self._storage, self._uri)
        if sweep is None or folder is None:
            return self._served(uri)
        pages = mlflow_server.prepare(folder, lines, uri)
        return f"{self._served(uri)}/{pages.runs}"

    def _served(self, uri: str) -> str:
        """The address of MLflow's pages on what it has recorded there."""
        if not is_database(uri):
            return uri.rstrip("/")
        if uri not in self._addresses:
            pages = mlflow_server.mlflow_pages(uri, _free_port(), self._storage)
            self._addresses[uri] = self._servers.enter_context(pages)
        return self._addresses[uri]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker.shutdown(cancel_futures=True)
        self._servers.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((mlflow_server.HOST, 0))
        return found.getsockname()[1]
