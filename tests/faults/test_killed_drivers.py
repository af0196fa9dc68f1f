"""The driver dies, again and again, and the same command goes on: the short form.

`benchmarks/chaos.py` is the long form, with every fault and executor.
"""

import pytest

from benchmarks import chaos, chaos_sweep
from benchmarks.chaos_faults import FAULTS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    chaos_sweep.prepare(folder)
    return folder


@pytest.mark.slow
def test_a_local_driver_killed_three_times_ends_as_if_undisturbed(root):
    whole, seconds = chaos.undisturbed(root, "local")
    at = chaos_sweep.place(root, "killed-local", "local")
    # Once before there is a trial for certain, and twice while trials learn.
    moments = iter([0.2 * seconds, 0.7 * seconds, 0.8 * seconds])
    told = chaos.disturbed(at, FAULTS["driver"], whole, moments, root / "killed-local.log")
    assert len(told["strikes"]) == 3
    assert told["found"] == []
