"""Faults on Ray, done to a sweep of the test's own: what hangs, is gone, or cannot be written."""

import shutil
import signal
import time

import pytest

from benchmarks.failing_disk import FailingDisk, NoDiskError
from orchestrator.cli import errors
from orchestrator.records.sweep_state import SweepState
from tests.faults.running_sweep import RunningSweep

SOON = "from orchestrator.executors.watching import progress_watch as w; w.STILL_SECONDS = 8.0; "
"""The same as in a sweep of hours, in less time."""
AN_HOUR_BACK = "import time as t; really = t.time; t.time = lambda: really() - 3600.0; "


@pytest.fixture
def disk(tmp_path, empty_database):
    """A disk under `tmp_path/runs` that can fail; None where this machine lets nobody make one."""
    runs, made = tmp_path / "runs", None
    try:
        made = FailingDisk(runs)
    except NoDiskError:
        runs.mkdir(exist_ok=True)
    shutil.copyfile(empty_database, runs / "mlflow.db")
    yield made
    if made is not None:
        made.remove()


@pytest.fixture
def sweep(experiment_file, tmp_path):
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

    def start(before=SOON):
        log = tmp_path / f"log-{len(begun)}"
        begun.append(RunningSweep(path, tmp_path / "runs" / "tiny", log, before=before))
        return begun[-1]

    yield start
    for each in begun:
        each.end()


def reported(running):
    return [x for x in running.events("stage_report") if x["trial"] != "base"]


def stops_with_one_message(running, words):
    began = time.monotonic()
    assert running.process.wait(60) == errors.MISTAKE, running.text
    assert time.monotonic() - began < 60
    assert running.text.count("orchestrate: ") == 1
    said = running.text[running.text.index("orchestrate: ") :]
    for each in words:
        assert each in said
    assert "Traceback" not in running.text
    assert running.processes() == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_member_that_hangs_a_ray_that_is_gone_and_a_disk_that_fails_cost_nothing(disk, sweep):
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
    stops_with_one_message(running, ["Ray cannot go on", "the same command goes on"])

    if disk is not None:
        running = sweep(SOON + AN_HOUR_BACK)
        running.wait_for(lambda: len(running.lines()) > before, 100)
        running.wait_for(lambda: running.named("LoneMember"), 100)
        disk.fail()
        stops_with_one_message(running, ["Read-only file system", "Let it be writable again"])
        disk.mend()

    again = sweep()
    assert again.process.wait(400) == 0, again.text
    state = SweepState.of(again.lines())
    assert [trial.state for trial in state.trials] == ["COMPLETE"] * 2
    assert len(again.lines()) > before
    times = [line["time"] for line in again.lines()]
    assert times == sorted(times), "though a clock was an hour behind"
