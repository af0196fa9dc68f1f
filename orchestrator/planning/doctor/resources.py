"""Checks of cores, memory and of what the environment says."""

from __future__ import annotations

from orchestrator.base.devices import bf16_slowness, processor
from orchestrator.executors.ray_settings import no_ray_folder
from orchestrator.planning.doctor.check import Check
from orchestrator.system.byte_units import GIB
from orchestrator.system.hub_environment import hub_cache, hub_hindered
from orchestrator.system.machine import memory, shared_memory, usable_cores
from orchestrator.system.ray_environment import ray_folder, set_aside

ENOUGH_MEMORY = 4 * GIB


ENOUGH_SHARED_MEMORY = 2 * GIB


def check_cores() -> Check:
    """How many cores this process may use."""
    cores = usable_cores()
    if cores < 2:
        return Check(
            "Cores",
            "WARN",
            f"{cores}",
            "Trials and the driver share one core; expect each to take about twice as long.",
        )
    return Check("Cores", "PASS", f"{cores}")


def check_precision() -> Check:
    """In which numbers `training.precision: auto` computes on this processor."""
    name, here = "Precision", processor()
    if here.bf16:
        return Check(name, "PASS", f"bf16 ({here.name}: {here.because})")
    ratio = bf16_slowness(threads=1)
    return Check(
        name,
        "WARN",
        f"fp32 ({here.name}: {here.because}; a product in bf16 takes {ratio:.1f} times as long)",
        "Leave `training.precision` at `auto`: files with `precision: bf16` are slow here.",
    )


def check_memory() -> Check:
    """Memory that is free now."""
    found = memory()
    if found is None:
        return Check("Memory", "WARN", "unknown", "See `orchestrate plan FILE` for what is needed.")
    total, available = found
    text = f"{available / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    if available < ENOUGH_MEMORY:
        return Check(
            "Memory",
            "WARN",
            text,
            "Close other programs, or lower `search.max_concurrent`; `orchestrate plan FILE` says "
            "what a trial needs.",
        )
    return Check("Memory", "PASS", text)


def check_shared_memory() -> Check:
    """Ray's object store lives in /dev/shm."""
    name = "/dev/shm"
    free = shared_memory()
    if free is None:
        return Check(name, "WARN", "missing", "Ray will keep its objects on disk, slowly.")
    text = f"{free / GIB:.1f} GiB free"
    if free < ENOUGH_SHARED_MEMORY:
        return Check(
            name,
            "WARN",
            text,
            "In a container, raise it (`docker run --shm-size=4g`); else Ray keeps its objects on "
            "disk, slowly.",
        )
    return Check(name, "PASS", text)


def check_ray_folder() -> Check:
    """Where a Ray of our own keeps its sockets and logs."""
    name = "Ray's folder"
    try:
        folder = ray_folder()
    except OSError as error:
        return Check(name, "FAIL", "none is usable", no_ray_folder(error))
    if folder.refused:
        return Check(
            name,
            "WARN",
            f"{folder.path}: {folder.refused}",
            "Nothing needs to be done, if there is space for Ray's logs. To choose another, set "
            "RAY_TMPDIR to a folder with a short path.",
        )
    return Check(name, "PASS", str(folder.path))


def check_environment() -> Check:
    """Settings of other programs that a sweep on this machine does not follow."""
    name = "Environment"
    found = set_aside()
    if not found:
        return Check(name, "PASS", "no variable names another Ray")
    return Check(
        name,
        "PASS",
        f"{', '.join(found)}: not followed by a sweep on this machine; `--address` joins a cluster",
    )


def check_hub() -> Check:
    """Whether models and data of the hub can be asked for and kept."""
    hindered = hub_hindered()
    if not hindered:
        return Check("Hub", "PASS", f"kept in {hub_cache()}")
    return Check(
        "Hub",
        "WARN",
        hindered,
        "Models and data of the hub that are not on this machine cannot be loaded; those in "
        "folders need no hub.",
    )
