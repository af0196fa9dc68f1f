"""Faults on Ray, done to a sweep of the test's own: a member that hangs, a Ray that is gone."""

import signal
import time

import pytest

from orchestrator.cli import errors
from orchestrator.records.sweep_state import SweepState
from tests.faults.running_sweep import RunningSweep

SOON = "from orchestrator.executors.watching import progress_watch as w; w.STILL_SECONDS = 8.0; "
"""The same as in a sweep of hours, in less time."""


@pytest.fixture
def sweep(experiment_file, records, tmp_path):
    """Starts a sweep of two trials in a pool of one member; everything of it is ended after all."""
    begun = []
    path = experiment_file(
        tasks=["mood"], probes=[], objectives={"gain": "max"},
        champion={"maximize": "gain", "subject_to": {}},
        data={"train_examples": 32, "validation_examples": 8, "rung_examples": 4},
        training={"learning_rate": 0.01, "batch_size": 8, "max_length": 48, "precision": "fp32",
                  "epochs": 60},
        search={"space": {"method.adapter.alpha": {"choice": [1.0, 2.0]}}, "searcher": "grid",
                "trials": 2},
        resources={"executor": "pool", "members": 1},
    )  # fmt: skip

    def start():
        begun.append(RunningSweep(path, records / "tiny", tmp_path / "log", before=SOON))
        return begun[-1]

    yield start
    for each in begun:
        each.end()


def reported(running):
    return [x for x in running.events("stage_report") if x["trial"] != "base"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_stopped_member_is_replaced_and_a_dead_ray_is_one_message(sweep):
    running = sweep()
    running.wait_for(lambda: reported(running), 300)
    (member,) = running.named("LoneMember")
    running.does(member, signal.SIGSTOP)
    running.wait_for(lambda: running.events("fault_survived"), 60)
    (fault,) = running.events("fault_survived")
    assert (fault["what"], fault["where"]) == ("member_hung", "member-0")
    assert set(fault["lost"]) == {"t001", "t002"}
    running.wait_for(lambda: member.pid not in {p.pid for p in running.named("LoneMember")}, 60)
    assert "came no further" in running.text

    running.wait_for(lambda: running.named("LoneMember"), 100)
    before = len(running.lines())
    running.does(running.raylet(), signal.SIGKILL)
    began = time.monotonic()
    assert running.process.wait(60) == errors.MISTAKE
    assert time.monotonic() - began < 60
    assert running.text.count("orchestrate: Ray cannot go on") == 1
    assert "Traceback" not in running.text
    assert "the same command goes on" in running.text
    assert running.processes() == []

    again = sweep()
    assert again.process.wait(400) == 0, again.text
    state = SweepState.of(again.lines())
    assert [trial.state for trial in state.trials] == ["COMPLETE"] * 2
    assert len(again.lines()) > before
