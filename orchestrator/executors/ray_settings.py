"""Settings of Ray's processes, and how a local Ray of our own is started."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

from orchestrator.executors.cluster_fit import ClusterError
from orchestrator.system.machine import usable_cores
from orchestrator.system.ray_environment import (
    RAY_ADDRESS,
    RAY_GCS_PORT,
    ray_folder,
    temporary_holds_sockets,
)
from orchestrator.system.stores.address import FOLDER_VARIABLE, stores_folder

_LOCAL = "127.0.0.1"
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Without clusters Ray's programs take 127.0.0.1 for this machine's address, and listen there."""
_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def process_environment() -> dict[str, str]:
    """Settings of Ray for our processes, as the user has set them where that changes no result."""
    needed = {
        # The workers of trials and members are written for this version of Ray Train.
        "RAY_TRAIN_V2_ENABLED": "1",
        # A storage at an address is worked on at the same place in every process.
        FOLDER_VARIABLE: str(stores_folder()),
    }
    defaults = {
        # Results are polled this often; two seconds would stall trials that report often.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
        "RAY_DEDUP_LOGS": "1",
        # Many light processes are how trials are run here; told in the middle of the display it
        # would look like a fault.
        "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {key: os.environ.get(key, value) for key, value in defaults.items()} | needed


def local_ray_options(
    port: int, environment: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """How a Ray of our own is started.

    Args:
        port: Where it is to answer.
        environment: For every process of trials.

    Returns:
        What `ray.init` is told, and what Ray's own programs have in their environment.

    Raises:
        ClusterError: If there is no folder for it.
    """
    try:
        folder = ray_folder().path
    except OSError as error:
        raise ClusterError(no_ray_folder(error)) from None
    settings: dict[str, str | None] = {
        RAY_GCS_PORT: str(port),
        _CLUSTERS: "0",
        # This machine is not taken away on notice; the watcher is one more process per trial.
        _WATCHER: os.environ.get(_WATCHER, "0"),
    }
    of_trials = {**environment, RAY_ADDRESS: f"{_LOCAL}:{port}"}
    if not temporary_holds_sockets():
        # Ray's own programs make sockets there; what trials keep there may be large.
        settings["TMPDIR"] = str(folder.parent)
        of_trials["TMPDIR"] = tempfile.gettempdir()
    options = {
        "address": "local",
        "num_cpus": usable_cores(),
        "include_dashboard": True,  # Ray's own cleaner of placement groups asks it
        "dashboard_host": _LOCAL,
        "_node_ip_address": _LOCAL,
        "_temp_dir": str(folder),
        "runtime_env": {"env_vars": of_trials},
        "_skip_env_hook": True,
    }
    return options, settings


def no_ray_folder(error: OSError) -> str:
    """What is wrong where no folder can hold the sockets of a Ray of our own.

    Args:
        error: Of `ray_folder`.

    Returns:
        One message, with the cure.
    """
    return (
        f"Ray finds no folder for its sockets: {error}. Set RAY_TMPDIR to a folder with a short "
        "path that you can write to, for example /tmp."
    )
