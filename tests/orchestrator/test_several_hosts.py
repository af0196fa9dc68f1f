"""A sweep whose workers are on several hosts; `benchmarks/several_hosts.py` has all cases."""

import os
import re
from pathlib import Path

import pytest

from benchmarks.several_hosts import CASES, alone, document, journal, prepare, twice
from tests.hosts import REQUIRED, RayOnHosts, hosts, missing, reported, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"


@pytest.fixture(scope="module")
def possible():
    """Nothing, where hosts can be made; where they must be and cannot, a failure."""
    why = missing()
    if why and os.environ.get(REQUIRED) == "required":
        pytest.fail(f"{REQUIRED}=required, but no hosts can be made: {why}")
    if why:
        pytest.skip(why)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_on_two_hosts_learn_what_one_process_learns(possible, tmp_path):
    """A member of two workers, one on each host, in a cluster that asks for a token."""
    case = CASES["group"]
    prepare(tmp_path)
    wanted = alone(tmp_path, "group", case, executor="local")
    with hosts(tmp_path / "hosts", 3) as machines:
        shared = machines[0].shared
        prepare(shared)
        file = document(shared, "group", case)
        cluster = RayOnHosts(machines)
        driver = cluster.sweep(file, log="group.log")
        # While the two workers are at work: what torch listens on is there only then.
        wait_until(
            lambda: driver.poll() is not None
            or any(line["event"] == "stage_report" for line in journal(shared, "group")),
            300, lambda: machines[0].said("group.log"),
        )  # fmt: skip
        found = set().union(*map(cluster.listening, machines))
        wait_until(lambda: driver.poll() is not None, 300, lambda: machines[0].said("group.log"))
        assert driver.returncode == 0, machines[0].said("group.log")
        lines = journal(shared, "group")
    assert not twice(lines)
    assert not [line for line in lines if line["event"] == "fault_survived"]
    assert approximately(reported(lines)) == approximately(wanted)
    named = re.findall(r"^\| `([^`]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"gcs_server", "raylet", "ray::DashboardAgent"} <= {name for name, _ in found}
    for name, address in found:
        known = [each for each in named if name.startswith(each.rstrip("…"))]
        assert known, f"{name} listens at {address}, and is not in docs/cluster.md"


def approximately(what):
    """Sums over two workers' rows differ from those over all rows in their last bits."""
    if isinstance(what, float):
        return pytest.approx(what, rel=1e-3, abs=1e-4)
    if isinstance(what, dict):
        return {key: approximately(value) for key, value in what.items()}
    if isinstance(what, list | tuple):
        return [approximately(each) for each in what]
    return what
