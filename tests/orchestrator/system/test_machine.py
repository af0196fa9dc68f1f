"""What a process may use of its machine, as the files of Linux say."""

import os

import pytest

from orchestrator.system.machine import memory, usable_cores

MIB = 2**20


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A machine of 16 cores and 1,000 MiB, of which 600 are free."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    write(tmp_path / "proc/meminfo", f"MemTotal: {1000 * 1024} kB\nMemAvailable: {600 * 1024} kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/pod/worker\n")
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder, limit, used, cached):
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(
        folder / "memory.stat",
        f"anon {used - cached}\nfile {cached}\nactive_file {cached // 4}\n"
        f"inactive_file {cached - cached // 4}\n",
    )


def test_without_a_control_group_the_whole_machine_counts(root):
    assert usable_cores(root) == 16
    assert memory(root) == (1000 * MIB, 600 * MIB)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 16), ("350000 100000", 3), ("50000 100000", 1), ("3200000 100000", 16)],
)
def test_a_quota_of_any_group_above_limits_the_cores(root, quota, cores):
    write(root / "sys/fs/cgroup/pod/cpu.max", f"{quota}\n")
    write(root / "sys/fs/cgroup/pod/worker/cpu.max", "max 100000\n")
    assert usable_cores(root) == cores


def test_the_first_version_of_control_groups_limits_as_well(root):
    write(
        root / "proc/self/cgroup",
        "4:memory:/slurm/job_7\n3:cpu,cpuacct:/slurm/job_7\n0::/\n",
    )
    group = root / "sys/fs/cgroup/cpu,cpuacct/slurm/job_7"
    write(group / "cpu.cfs_quota_us", "400000\n")
    write(group / "cpu.cfs_period_us", "100000\n")
    limited = root / "sys/fs/cgroup/memory/slurm"
    write(limited / "memory.limit_in_bytes", f"{300 * MIB}\n")
    write(limited / "memory.usage_in_bytes", f"{200 * MIB}\n")
    write(limited / "memory.stat", f"inactive_file 0\ntotal_inactive_file {50 * MIB}\n")
    assert usable_cores(root) == 4
    assert memory(root) == (300 * MIB, 150 * MIB)
    write(group / "cpu.cfs_quota_us", "-1\n")  # none
    assert usable_cores(root) == 16


def test_a_groups_name_on_the_host_does_not_hide_the_limit_inside_a_container(root):
    write(root / "proc/self/cgroup", "0::/system.slice/docker-abc.scope\n")
    write(root / "sys/fs/cgroup/cpu.max", "200000 100000\n")
    group(root / "sys/fs/cgroup", 100 * MIB, 30 * MIB, 0)
    assert usable_cores(root) == 2
    assert memory(root) == (100 * MIB, 70 * MIB)


def test_an_affinity_limits_the_cores(root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores(root) == 2


def test_files_that_were_read_leave_their_memory_free(root):
    group(root / "sys/fs/cgroup/pod/worker", 100 * MIB, 90 * MIB, 80 * MIB)
    assert memory(root) == (100 * MIB, 90 * MIB)


def test_the_narrowest_control_group_counts(root):
    groups = root / "sys/fs/cgroup"
    group(groups / "pod/worker", "max", 40 * MIB, 0)
    group(groups / "pod", 100 * MIB, 70 * MIB, 0)
    group(groups, 200 * MIB, 100 * MIB, 0)
    assert memory(root) == (100 * MIB, 30 * MIB)
    write(groups / "pod/memory.max", "max\n")
    assert memory(root) == (200 * MIB, 100 * MIB)


def test_where_linux_says_nothing_memory_is_unknown(tmp_path):
    assert memory(tmp_path) is None
