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


def reports(number):
    """The moment at which a sweep has as many reports, or a hair later."""

    def is_now(_, at):
        lines = at.journal
        return bool(lines) and sum(line["event"] == "stage_report" for line in lines) >= number

    return is_now


@pytest.mark.slow
def test_a_local_driver_killed_twice_ends_as_if_undisturbed(root):
    whole, _ = chaos.undisturbed(root, "local")
    at = chaos_sweep.place(root, "killed-local", "local")
    # Before the first trial has reported, and inside the third.
    moments = iter([reports(0), reports(10)])
    told = chaos.disturbed(at, FAULTS["driver"], whole, moments, root / "killed-local.log")
    assert len(told["strikes"]) == 2
    assert told["found"] == []
