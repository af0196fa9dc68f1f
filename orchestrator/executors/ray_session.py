"""Starting a local Ray or joining a running cluster, and leaving nothing behind."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from curlora_kinds.plugins import LOADED
from orchestrator.executors.cluster_fit import ClusterError
from orchestrator.executors.ray_processes import end, kill, ray_children, with_descendants
from orchestrator.executors.ray_settings import local_ray_options, process_environment
from orchestrator.executors.signals import uninterrupted
from orchestrator.executors.watching.abandoned_ray import noted
from orchestrator.executors.watching.ray_watch import (
    RayGoneError,
    RayWatch,
    own_raylet,
    session_folder,
)
from orchestrator.system.environment import changed
from orchestrator.system.mlflow_environment import spare_loopback
from orchestrator.system.ray_environment import (
    RAY_ADDRESS,
    RAY_AUTH_MODE,
    own_token,
    token_mode,
    without_redirects,
    without_token,
)

_TOO_SLOW = ("timed out", "timeout", "did not start", "failed to start", "in time")
"""Words in what Ray says when its processes were too slow for it."""


@contextmanager
def connected(address: str | None) -> Iterator[Mapping[str, float]]:
    """Start a local Ray, or join a running cluster; give its resources; leave nothing behind.

    What the environment says of other clusters is not followed, save for the address "auto".

    Args:
        address: Address of a running cluster ("auto", host:port, ray://...); None starts a local
            one on loopback.

    Yields:
        The cluster's resources.

    Raises:
        ClusterError: If there is no cluster at the address, or it is a dashboard's.
    """
    import ray

    _refuse_dashboard(address)
    environment = process_environment()
    os.environ.update(environment)
    if ray.is_initialized():
        yield _resources()
        return
    with changed(without_redirects(address)):
        if address is None:
            with _started_local(environment) as own, changed({RAY_ADDRESS: own}):
                yield _resources()
            return
        with (
            bringing(token_for(address)),
            _joined(address, environment) as head,
            changed({RAY_ADDRESS: head}),
        ):
            yield _resources()


def token_for(address: str) -> dict[str, str | None]:
    """The changes with which a process brings its token to a cluster, where that asks for one.

    Args:
        address: HOST:PORT of its head, or the `http://` address of its dashboard. A cluster that
            Ray finds by itself (`auto`) is left to Ray, which looks for a token, too.

    Returns:
        For `bringing`.
    """
    return token_mode(address) if ":" in address and not address.startswith("ray://") else {}


@contextmanager
def bringing(token: Mapping[str, str | None]) -> Iterator[None]:
    """Meanwhile this process talks to clusters as `token_for` says."""
    if not token:
        yield
        return
    try:
        with changed(token):
            _read_environment_again()
            yield
    finally:
        _read_environment_again()


def _read_environment_again() -> None:
    """Let Ray's part of this process that is no Python have the settings of the environment."""
    importlib.import_module("ray._raylet").Config.initialize("")


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Meanwhile nodes that this process starts have the address 127.0.0.1, and listen there alone.

    Ray replaces that address by one that other machines reach, and listens on all of them, except
    where it cannot have clusters: it does so on Windows and macOS, and here.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False  # read from the environment when Ray was imported
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _refuse_dashboard(address: str | None) -> None:
    """What Ray prints first is no address to join, whether or not a Ray runs already.

    Raises:
        ClusterError: If the address is a dashboard's.
    """
    if address is not None and address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{address} is the address of a dashboard, which takes jobs (`ray job submit`). For "
            "`--address` give that of the cluster itself, HOST:6379 as `ray start` prints it, or "
            "`auto` on one of its nodes."
        )


def _resources() -> dict[str, float]:
    import ray

    return {str(name): float(amount) for name, amount in ray.cluster_resources().items()}


@contextmanager
def _started_local(environment: Mapping[str, str]) -> Iterator[str]:
    """A Ray of our own, on loopback; all of its processes end with it.

    Args:
        environment: For every process of trials.

    Yields:
        Its address.

    Raises:
        ClusterError: If it cannot be started.
    """
    # A local Ray asks its clients for a token of their own accord; that needs no warning.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    spare_loopback()
    # Known beforehand, so that Ray's own helpers ask this Ray when another runs on the machine.
    port = _free_port()
    options, settings = local_ray_options(port, environment)
    before = set(psutil.Process().children())
    session = None
    try:
        with own_token(), changed(settings), _on_loopback():
            try:
                _init(options)
            except Exception as error:  # noqa: BLE001 (Ray raises bare ones)
                raise ClusterError(start_failure(error)) from None
            started = with_descendants(ray_children(before))
            session = session_folder()
            with noted(started, session), _told_when_gone(RayWatch(started, None)):
                yield str(options["runtime_env"]["env_vars"][RAY_ADDRESS])
    except ClusterError:
        session = None  # its logs say why
        with uninterrupted():
            _leave(before, gone=True)
        raise
    finally:
        # A worker process can outlive its cluster (seen once in some sixty trials), and a cluster
        # that could not be started leaves the processes that could.
        with uninterrupted():
            _leave(before, gone=False)
        if session is not None:
            shutil.rmtree(session, ignore_errors=True)


def _leave(before: Set[psutil.Process], *, gone: bool) -> None:
    """Let a Ray of our own end, and all of its processes; one that is gone is not waited for."""
    import ray

    ours = with_descendants(ray_children(before))
    if gone:
        kill(ours)
    ray.shutdown()
    end(ours)


@contextmanager
def _told_when_gone(watch: RayWatch) -> Iterator[None]:
    """Say in our words that Ray is gone, as soon as it is."""
    try:
        with watch.watching():
            yield
    except RayGoneError as error:
        raise ClusterError(
            f"Ray cannot go on: {error}. The machine may have been out of memory, or Ray was "
            "stopped. What is finished is kept; the same command goes on with the rest."
        ) from None


@contextmanager
def _joined(address: str, environment: Mapping[str, str]) -> Iterator[str]:
    """A driver of a running cluster.

    Args:
        address: The cluster's.
        environment: For every process of trials.

    Yields:
        The address that its own processes know.

    Raises:
        ClusterError: If nobody answers there.
    """
    import ray

    packages = [str(path) for path in package_folders()]
    options: dict[str, Any] = {
        "address": address,
        "runtime_env": {"env_vars": environment, "py_modules": packages},
    }
    try:
        _init(options)
    except Exception as error:  # noqa: BLE001 (Ray raises bare ones)
        named = os.environ.get(RAY_ADDRESS) if address == "auto" else None
        place = address if named is None else f"{address} ({RAY_ADDRESS}={named})"
        asks = os.environ.get(RAY_AUTH_MODE) == "token" and without_token()
        raise ClusterError(
            f"No Ray cluster could be reached at {place}: {asks or error_line(error)}. Start one "
            "with `ray up cluster.yaml` or `ray start --head`, or leave `--address` out."
        ) from None
    try:
        # A client has no address but the one that it was given.
        if address.startswith("ray://"):
            yield address
            return
        head = ray.get_runtime_context().gcs_address
        with _told_when_gone(RayWatch(own_raylet(), head)):
            yield head
    finally:
        with uninterrupted():
            ray.shutdown()


def _init(options: dict[str, Any]) -> None:
    """Call `ray.init`, quietly, and leave SIGTERM as it was."""
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, configure_logging=False, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray ends its driver at once on SIGTERM; ours has things to leave in order.
            signal.signal(signal.SIGTERM, on_sigterm)


def error_line(error: BaseException) -> str:
    """The message of an error as one short line without a full stop at its end."""
    return " ".join(str(error).split())[:300].rstrip(".")


def start_failure(error: BaseException) -> str:
    """Why Ray could not be started on this machine, and what to do.

    Args:
        error: What `ray.init` raised.

    Returns:
        One message for the user.
    """
    why = error_line(error)
    slow = any(word in why.lower() for word in _TOO_SLOW)
    cure = "Give the same command again when the machine is less busy; " if slow else ""
    return (
        f"Ray could not be started on this machine: {why}. {cure}`orchestrate doctor` says what is "
        "missing."
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))  # free on every interface; nothing listens
        return int(probe.getsockname()[1])


def package_folders() -> list[Path]:
    """The packages, and the plugins that are files, for shipping to the nodes of a cluster."""
    here = Path(__file__).resolve().parents[1]
    return [here, *(here.parent / name for name in ("curlora", "curlora_kinds")), *_plugin_files()]


def _plugin_files() -> list[Path]:
    """The file of each plugin that was found by one; the folder of a package."""
    files = [plugin.file for plugin in LOADED.values() if plugin.reference != plugin.name]
    return [file.parent if file.name == "__init__.py" else file for file in files]
