"""What this process may use of its machine: cores, memory, shared memory, GPUs.

A scheduler (SLURM, Docker, systemd) gives a process a part of the machine in two ways: an affinity
to some cores, and control groups, of which every one above the process sets a limit of its own.
Both versions of control groups are read, as they may be mounted side by side.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Cores that this process may use: those of its affinity, within its control groups' quotas.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        At least 1; of a quota of 1.5 cores one.
    """
    cores = float(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    for group in _control_groups(root, "cpu"):
        words = _words(group / "cpu.max") or [
            *_words(group / "cpu.cfs_quota_us"),
            *_words(group / "cpu.cfs_period_us"),
        ]
        # "max" and -1 are no quota.
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            cores = min(cores, int(words[0]) / int(words[1]))
    return max(1, int(cores))


def memory(root: Path = ROOT) -> tuple[int, int] | None:
    """Total and available memory in bytes, None where Linux does not tell.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        The machine's, or the narrowest control group's where that is less. Files that were read
        stay in memory and count as a group's, but go when memory is wanted: they are available.
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = {name: int(rest.split()[0]) for name, rest in (x.split(":", 1) for x in lines)}
    total, available = kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    for group in _control_groups(root, "memory"):
        limit = _count(group / "memory.max") or _count(group / "memory.limit_in_bytes")
        if limit is None or limit >= kilobytes["MemTotal"] * 1024:
            continue
        used = _count(group / "memory.current") or _count(group / "memory.usage_in_bytes") or 0
        total = min(total, limit)
        available = min(available, max(0, limit - used + _cached_bytes(group)))
    return total, available


def shared_memory() -> int | None:
    """Free bytes of /dev/shm; None where there is none."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return None


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, for one controller."""
    found: set[Path] = set()
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, place = line.split(":", 2)
        if not controllers:  # version 2, which may be mounted beside version 1
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controllers, mounts / controller]
        else:
            continue
        for top in tops:
            below = top / place.lstrip("/")
            # Inside a container the place may be the host's, and the top is our own group.
            found |= {top, *(folder for folder in (below, *below.parents) if top in folder.parents)}
    yield from (folder for folder in sorted(found) if folder.is_dir())


def _cached_bytes(group: Path) -> int:
    counts = dict(line.split(maxsplit=1) for line in _lines(group / "memory.stat") if " " in line)
    whole = "total_" if "total_inactive_file" in counts else ""  # version 1: with groups below
    return sum(int(counts.get(f"{whole}{kind}_file", 0)) for kind in ("active", "inactive"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path)[:1] for word in line.split()]


def _count(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def hidden_gpus() -> str:
    """Which variable says that this process sees only some GPUs, or none; empty where none does."""
    names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    return ", ".join(
        f"{name} is {os.environ[name]!r}"
        for name in names
        if os.environ.get(name, "all") not in {"all", "void"}
    )
