"""What a disturbed sweep of `benchmarks.chaos` depends on, and what a fault does to it.

A disk of its own, a server of MLflow, a clock that can be set, a cluster of two nodes: each is made
for one sweep and is gone after it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil

from benchmarks.chaos_sweep import MARK, Place, end_all, left_after, marked
from benchmarks.failing_disk import FailingDisk

AWAY_SECONDS = 60.0
"""How long a server, or a node, is away."""
START_SECONDS = 180.0
"""How long a server may take to start on a machine that may be busy."""
CLOCK = "ORCHESTRATOR_CHAOS_CLOCK"
"""Names the file whose being there sets the clock of all processes back."""
_disks: dict[Path, FailingDisk] = {}
_failed: set[Path] = set()
_servers: dict[Path, Server] = {}
_clusters: dict[Path, Cluster] = {}


# --- a disk --------------------------------------------------------------------------------------


@contextmanager
def own_disk(at: Place) -> Iterator[Place]:
    """The sweep's storage is a disk of its own.

    Args:
        at: The sweep's place.

    Yields:
        The same.
    """
    _disks[at.storage] = FailingDisk(at.storage)
    try:
        yield at
    finally:
        _disks.pop(at.storage).remove()


def fail_disk(at: Place) -> str:
    """Let it be read-only at once."""
    _disks[at.storage].fail()
    _failed.add(at.storage)
    return "the storage became read-only"


def mend_disk(at: Place) -> None:
    """Let it be writable again, once nobody uses it any more."""
    if at.storage in _failed:
        left_after(at.mark, 60)
        _failed.remove(at.storage)
        _disks[at.storage].mend()


# --- a server of MLflow --------------------------------------------------------------------------


class Server:
    """A server of MLflow with the database of a storage folder."""

    def __init__(self, storage: Path) -> None:
        """Start it, and wait until it answers."""
        self._storage, self._port = storage, _free_port()
        self._back: threading.Thread | None = None
        self.start()

    @property
    def uri(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        storage = self._storage
        storage.mkdir(parents=True, exist_ok=True)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")
        }
        with storage.with_suffix(".server").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                 "--port", str(self._port), "--workers", "1",
                 "--backend-store-uri", f"sqlite:///{storage / 'mlflow.db'}",
                 "--artifacts-destination", str(storage / "mlartifacts")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )  # fmt: skip
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            time.sleep(0.5)
        raise RuntimeError(f"No server of MLflow after {START_SECONDS:.0f} s; see {storage}.server")

    def away(self, how: signal.Signals) -> None:
        """Let it hang or die; it is back after a while."""
        os.killpg(self._process.pid, how)

        def back() -> None:
            time.sleep(AWAY_SECONDS)
            if how == signal.SIGSTOP:
                os.killpg(self._process.pid, signal.SIGCONT)
            else:
                self._process.wait()
                self.start()

        self._back = threading.Thread(target=back, daemon=True)
        self._back.start()

    def wait(self) -> None:
        """Wait until it is back."""
        if self._back is not None:
            self._back.join()

    def end(self) -> None:
        """End it."""
        self.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def own_server(at: Place) -> Iterator[Place]:
    """The sweep records to a server of its own.

    Args:
        at: The sweep's place, whose file is changed.

    Yields:
        The same.
    """
    server = _servers[at.storage] = Server(at.storage)
    document = json.loads(at.file.read_text(encoding="utf-8"))
    at.file.write_text(json.dumps({**document, "tracking": {"uri": server.uri}}), encoding="utf-8")
    try:
        yield at
    finally:
        _servers.pop(at.storage).end()


def hang_server(at: Place) -> str:
    """Let it accept whoever comes, and answer nobody, for a minute."""
    _servers[at.storage].away(signal.SIGSTOP)
    return f"SIGSTOP of MLflow's server for {AWAY_SECONDS:.0f} s"


def kill_server(at: Place) -> str:
    """Let it be gone for a minute."""
    _servers[at.storage].away(signal.SIGKILL)
    return f"SIGKILL of MLflow's server, started again after {AWAY_SECONDS:.0f} s"


def wait_for_server(at: Place) -> None:
    """Wait until it is back."""
    _servers[at.storage].wait()


# --- a clock -------------------------------------------------------------------------------------


@contextmanager
def own_clock(at: Place) -> Iterator[Place]:
    """The clock of all Python processes of the sweep can be set back.

    Args:
        at: The sweep's place.

    Yields:
        The same, with what its processes are told.
    """
    flag = at.storage.with_suffix(".clock")
    hook = Path(__file__).with_name("chaos_clock")
    yield replace(at, environment={CLOCK: str(flag)}, first_on_path=str(hook))
    flag.unlink(missing_ok=True)


def set_clock_back(at: Place) -> str:
    """Set it back by an hour, for good."""
    Path(at.environment[CLOCK]).touch()
    return "the clock was set back by an hour"


# --- two nodes -----------------------------------------------------------------------------------


_OF_CLUSTER = {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "150"}
"""Both nodes and the driver are on this machine, which may be busy."""


class Cluster:
    """A head that holds no worker, and a node that does, on this machine."""

    def __init__(self, at: Place) -> None:
        """Start both."""
        self._at, self._mark = at, f"{at.mark}-cluster"
        self._port, self._back = _free_port(), None
        self.address = f"127.0.0.1:{self._port}"
        head = ("--head", f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false")
        self._ray("127.0.0.1", *head)
        self.add_node()

    def add_node(self) -> None:
        """Start another node."""
        before = set(self._raylets())
        # At another address of this machine, so that the driver is not taken for one of its own.
        self._ray("127.0.0.2", f"--address={self.address}", "--num-cpus=2")
        (self._node,) = set(self._raylets()) - before

    def lose_node(self) -> None:
        """Kill the node with its workers; another one comes after a while."""
        lost = [self._node, *self._node.children(recursive=True)]
        for process in lost:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._back = threading.Timer(10.0, self.add_node)
        self._back.start()

    def end(self) -> None:
        """End all of it."""
        if self._back is not None:
            self._back.join()
        end_all(self._mark)

    def _raylets(self) -> list[psutil.Process]:
        return [p for p in marked(self._mark) if p.name() == "raylet"]

    def _ray(self, ip: str, *words: str) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        # A folder for each node: a driver joins the node that was noted last in its own.
        temporary = self._at.root / ("tmp" if "--head" in words else "tmp-node")
        temporary.mkdir(exist_ok=True)
        environment = {
            **os.environ, MARK: self._mark, "TMPDIR": str(temporary),
            "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", **_OF_CLUSTER,
        }  # fmt: skip
        subprocess.run(
            [*ray, "start", "--disable-usage-stats", f"--node-ip-address={ip}", *words],
            check=True, capture_output=True, env=environment, timeout=START_SECONDS,
        )  # fmt: skip


@contextmanager
def own_cluster(at: Place) -> Iterator[Place]:
    """The sweep joins a cluster of two nodes, of which the head holds no worker.

    Args:
        at: The sweep's place.

    Yields:
        The same, with the cluster's address.
    """
    cluster = _clusters[at.storage] = Cluster(at)
    try:
        yield replace(at, words=("--address", cluster.address), environment=_OF_CLUSTER)
    finally:
        _clusters.pop(at.storage).end()


def lose_node(at: Place) -> str:
    """Kill the node that holds the workers; another one comes ten seconds later."""
    _clusters[at.storage].lose_node()
    return "SIGKILL of a node with its workers; another came after 10 s"
