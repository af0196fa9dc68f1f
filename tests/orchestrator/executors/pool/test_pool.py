"""Trials that step together in members of the pool, and those that have workers of their own."""

import os
import signal
import threading
import time

import psutil
import pytest

from orchestrator.executors.ray_leftovers import Leftovers, wait_until_clean
from orchestrator.spec.load import load_experiment
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions
from tests.conftest import Recorder

pytestmark = pytest.mark.usefixtures("records")

SPACE = {
    "method.adapter.kind": {"choice": ["curlora", "lora", "secura"]},
    "training.learning_rate": [
        {"choice": [0.03, 0.01], "when": {"method.adapter.kind": ["curlora", "lora"]}},
        {"choice": [0.003], "when": {"method.adapter.kind": "secura"}},
    ],
}
SEARCH = {"space": SPACE, "searcher": "grid", "trials": 5}
DATA = {
    "train_examples": 16, "validation_examples": 12, "probe_tokens": 100, "probe_context": 32,
    "rung_examples": 6,
}  # fmt: skip


class Killer(threading.Thread):
    """Kills an actor's process once a trial has been saved.

    It looks at the trial's snapshot: by the time a report has reached the driver, a trial as small
    as these may have ended.
    """

    def __init__(self, folder, snapshot, actor):
        super().__init__(daemon=True)
        self.folder, self.snapshot, self.actor = folder, snapshot, actor
        self.killed = []

    def run(self):
        while not any(self.folder.glob(self.snapshot)):
            time.sleep(0.002)
        own = psutil.Process().children(recursive=True)  # Ray's, which this process started
        titles = {process.pid: " ".join(process.cmdline()[:1]) for process in own}
        self.killed.append([pid for pid, title in titles.items() if self.actor in title][-1])
        os.kill(self.killed[0], signal.SIGKILL)


def sweep(experiment_file, recorder, name, options=None, **fields):
    path = experiment_file(name, **{"search": SEARCH, "data": DATA, **fields})
    return run_sweep(load_experiment(path), options or SweepOptions(), recorder)


def ended(outcome):
    return {line["trial"]: line for line in outcome.lines if line["event"] == "trial_ended"}


def losses(outcome):
    """The losses of every report, with its place."""
    return [
        ((line["trial"], line["report"]["task_index"], line["report"]["fraction"]),
         line["report"]["losses"])
        for line in outcome.lines
        if line["event"] == "stage_report"
    ]  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_whose_processes_are_killed_measures_what_a_sweep_in_turns_measures(
    experiment_file, recorder, ray_cluster, tmp_path
):
    """Four trials of the grid are packed, three at a time; SECURA has workers of its own."""
    alone = {"executor": "local"}
    turns_outcome = sweep(
        experiment_file, recorder, "turns", resources=alone, finalists={"fresh_seeds": 1}
    )
    turns = ended(turns_outcome)
    work = tmp_path / "runs" / "pooled" / "ray"
    of_member = Killer(work, "t002/checkpoint", "LoneMember")
    of_trial = Killer(work, "t005/checkpoint_*", "TrainTrial")
    for killer in (of_member, of_trial):
        killer.start()
    listening = Recorder()
    outcome = sweep(
        experiment_file,
        listening,
        "pooled",
        resources={"executor": "pool", "slots": 3, "members": 1},
        finalists={"fresh_seeds": 1},
    )
    assert len(of_trial.killed) == 1
    members = {seen["pid"] for name, seen in listening.steps if name == "t002" and "pid" in seen}
    assert members - set(of_member.killed)  # it was not too late
    pooled = ended(outcome)
    assert set(pooled) == set(turns)
    assert len(pooled) == 1 + 5 + 1
    for name, line in pooled.items():
        assert line["state"] == "COMPLETE", (line.get("reason"), line)
        for measure, value in turns[name]["measures"].items():
            if measure.startswith("cost_s") or value is None:
                continue
            # Passes round otherwise than one process: an example of twelve may be a close call.
            assert line["measures"][measure] == pytest.approx(value, abs=0.09), (name, measure)
        if name != "base":
            assert (outcome.folder / line["adapter"] / "adapter.json").is_file()
    stages = [place for place, _ in losses(outcome)]
    assert dict(losses(outcome)) == {
        place: pytest.approx(values, rel=1e-4) for place, values in losses(turns_outcome)
    }
    assert len(stages) == len(set(stages))  # nothing is told twice, though some was done twice
    assert not list((outcome.folder / "ray").glob("*/checkpoint*"))
    assert wait_until_clean() == Leftovers()


@pytest.mark.ray
@pytest.mark.slow
def test_a_scheduler_of_ray_tune_stops_trials_of_a_member_that_shards_its_base(
    experiment_file, ray_cluster
):
    """By their gain after a task; the member has two workers, each with half of the base."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    # The first learns, the others cannot.
    space = {"training.learning_rate": {"choice": [0.03, 1.0e-9, 2.0e-9, 4.0e-9]}}
    scheduler = AsyncHyperBandScheduler(
        time_attr="tasks_learnt", metric="gain", mode="max", max_t=9, grace_period=1,
        reduction_factor=2,
    )  # fmt: skip
    training = {"epochs": 8, "batch_size": 8, "precision": "fp32", "max_length": 64}
    fields = {
        "method": {"adapter": {"kind": "lora", "r": 4}}, "data": {**DATA, "train_examples": 32},
        "scoring": "full",
    }  # fmt: skip
    outcome = sweep(
        experiment_file,
        Recorder(),
        "stopped",
        SweepOptions(scheduler=scheduler),
        search={"space": space, "searcher": "grid", "trials": 4},
        resources={"executor": "pool", "slots": 2, "members": 1, "workers": 2},
        training={**training, "deepspeed": {"zero_optimization": {"stage": 3}}},
        **fields,
    )
    ends = ended(outcome)
    states = {name: line["state"] for name, line in ends.items()}
    assert states["base"] == "COMPLETE"
    assert set(states.values()) == {"COMPLETE", "STOPPED"}, states
    row_0 = next(
        line["report"]["row"] for line in outcome.lines
        if line["event"] == "stage_report" and line["trial"] == "base"
    )  # fmt: skip
    gains = {
        line["trial"]: _mean(line["report"]["row"]) - _mean(row_0)
        for line in outcome.lines
        if line["event"] == "stage_report"
        and line["report"]["row"]
        and line["report"]["task_index"] == 0
    }
    for name, line in ends.items():
        if line["state"] != "STOPPED":
            continue
        assert "scheduler" in line["reason"]
        assert line["measures"] is None
        # It was stopped after a task, by a gain that was not the best.
        told = [x for x in outcome.lines if x["event"] == "stage_report" and x["trial"] == name]
        assert told[-1]["report"]["row"] is not None
        assert gains[name] < max(gains.values())
    assert states["t001"] == "COMPLETE"
    alone = sweep(
        experiment_file,
        Recorder(),
        "alone",
        search=None,
        resources={"executor": "local"},
        training={**training, "learning_rate": 0.03},
        **fields,
    )
    # Fresh moments at the second task turn the rounding of small gradients into whole steps; in
    # float64 the whole run is the same (test_packed_ranks.py).
    steps = 4 * 8
    assert _losses(outcome)[:steps] == pytest.approx(_losses(alone)[:steps], abs=1e-4)
    assert wait_until_clean() == Leftovers()


def _losses(outcome):
    return [
        loss
        for line in outcome.lines
        if line["event"] == "stage_report" and line["trial"] == "t001"
        for loss in line["report"]["losses"]
    ]


def _mean(row):
    return sum(row) / len(row)


@pytest.mark.parametrize("name", ["PopulationBasedTraining", "HyperBandScheduler"])
def test_a_scheduler_that_pauses_trials_is_refused(experiment_file, name):
    from ray.tune import schedulers

    with pytest.raises(SweepError, match=f"{name} pauses"):
        sweep(
            experiment_file,
            Recorder(),
            "paused",
            SweepOptions(scheduler=getattr(schedulers, name)(metric="gain", mode="max", **(
                {"hyperparam_mutations": {"x": [1, 2]}} if name.startswith("Pop") else {}
            ))),
        )  # fmt: skip
