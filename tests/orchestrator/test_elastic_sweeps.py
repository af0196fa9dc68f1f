"""Sweeps on clusters that grow and shrink, and that are shared."""

import subprocess
import sys
import time

import pytest

from orchestrator.records.journal_lines import read_journal
from orchestrator.spec.load import load_experiment
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions
from tests.autoscaling_cluster import own_cluster

DATA = {
    "train_examples": 16, "validation_examples": 12, "probe_tokens": 100, "probe_context": 32,
    "rung_examples": 6,
}  # fmt: skip
SEARCH = {
    "space": {
        "training.learning_rate": {"log_uniform": [0.0005, 0.03]},
    },
    "searcher": "random",
    "trials": 9,
}


DRIVER = """
import sys
from orchestrator.executors.elastic import room, sweep_book
from orchestrator.executors.pool import pool
sweep_book.CONTENDED_SECONDS, sweep_book.LOOK_SECONDS, room.LOOK_SECONDS = 3.0, 0.5, 0.5
pool.FIT_SECONDS, pool.IDLE_SECONDS = 0.5, 3.0
from orchestrator.cli import main
sys.argv = ["orchestrate", *sys.argv[1:]]
main()
"""
"""A command for which another sweep is short of places, and a member idle, after seconds."""


def measured(lines):
    """What each trial came to, without what it cost in seconds."""
    ended = {line["trial"]: line for line in lines if line["event"] == "trial_ended"}
    losses = {}
    for line in lines:
        if line["event"] == "stage_report":
            losses.setdefault(line["trial"], []).append(line["report"]["losses"])
    return {
        name: (
            line["state"],
            {k: v for k, v in (line["measures"] or {}).items() if not k.startswith("cost_s")},
            losses[name],
        )
        for name, line in ended.items()
    }


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_grows_from_nothing_and_shrinks_during_a_sweep_with_the_results_of_one_node(
    experiment_file, recorder, ray_cluster, tmp_path
):
    # One trial is so long that the others' nodes are given back while it runs.
    long = {"training.learning_rate": 0.001, "training.epochs": 600}
    fields = {
        "search": {**SEARCH, "first": [long]}, "data": DATA, "probes": [],
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
    }  # fmt: skip
    with own_cluster(tmp_path / "cluster", cpus=0, node_cpus=1, most_nodes=4) as cluster:
        path = experiment_file("grows", resources={"slots": 2, "max_workers": 4}, **fields)
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, "sweep", str(path), "--address", cluster.address],
            cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, timeout=900,
            check=False,
        )  # fmt: skip
        said = done.stdout[-3000:] + done.stderr[-6000:]
        assert done.returncode == 0, said
        assert cluster.wait_for(0, 120)
    assert cluster.counts[0] == cluster.counts[-1] == 0
    assert max(cluster.counts) >= 4, said
    assert "ends: too few trials are left for it" in done.stderr
    lines = read_journal(tmp_path / "runs" / "grows")
    path = experiment_file("stays", resources={"slots": 2, "members": 1}, **fields)
    stays = run_sweep(load_experiment(path), SweepOptions(), recorder)
    assert measured(lines) == measured(stays.lines)
    assert not [line for line in lines if line["event"] == "fault_survived"]


@pytest.mark.ray
@pytest.mark.slow
def test_two_sweeps_share_a_cluster_by_their_priorities_and_say_what_they_wait_for(
    experiment_file, tmp_path
):
    space = {"training.learning_rate": {"choice": [0.02 / n for n in range(1, 13)]}}
    fields = {
        "search": {"space": space, "searcher": "grid", "trials": 12}, "data": DATA, "probes": [],
        "training": {"learning_rate": 0.02, "batch_size": 8, "max_length": 48,
                     "precision": "fp32", "epochs": 60},
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
    }  # fmt: skip
    running = {}
    with own_cluster(tmp_path / "cluster", cpus=3) as cluster:
        for name, priority in (("first", 1), ("second", 2)):
            path = experiment_file(name, resources={"slots": 1, "priority": priority}, **fields)
            with (tmp_path / f"{name}.log").open("w") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, "-c", DRIVER, "sweep", str(path), "--address",
                     cluster.address],
                    cwd=tmp_path, env=cluster.environment, stdout=log, stderr=log,
                )  # fmt: skip
            if name == "first":
                _wait_for(tmp_path / "first.log", "t002", 120)
        try:
            assert [process.wait(400) for process in running.values()] == [0, 0], _said(tmp_path)
        finally:
            for process in running.values():
                process.kill()
    first = (tmp_path / "first.log").read_text()
    assert "the cluster is shared with second (priority 2)" in first, _said(tmp_path)
    assert "keeps 1 worker of 3" in first, _said(tmp_path)
    assert "ends: its place is another sweep's" in first
    for name in ("first", "second"):
        lines = read_journal(tmp_path / "runs" / name)
        states = [line["state"] for line in lines if line["event"] == "trial_ended"]
        assert states == ["COMPLETE"] * 13
        assert not [line for line in lines if line["event"] == "fault_survived"]
    # The second began to learn long before the first had ended.
    times = [read_journal(tmp_path / "runs" / name) for name in ("first", "second")]
    reported = min(x["time"] for x in times[1] if x.get("trial") == "t001")
    assert reported < max(x["time"] for x in times[0] if x["event"] == "trial_ended")


def _wait_for(log, words, seconds):
    deadline = time.monotonic() + seconds
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _said(folder):
    return "\n".join(f"{log.name}: {log.read_text()[-3000:]}" for log in folder.glob("*.log"))
