"""A job is the same on the other side of Ray Tune, but for what must not travel."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.executors.job import Job
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment
from orchestrator.system.seals import Maker

EXPERIMENT = Experiment.model_validate({
    "name": "made-up", "model": {"name": "/nowhere"}, "tasks": ["mood", "being"],
    "method": {"adapter": {"kind": "lora", "r": 2}}, "training": {"learning_rate": 0.01},
    "objectives": {"gain": "max"}, "champion": {"maximize": "gain"},
})  # fmt: skip
JOB = Job(EXPERIMENT, Maker("a sweep", "t001", "settings"), SweepFolder(Path("/runs/made-up")))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"executor": "pool", "row_0": (0.5, None)},
        {"maker": Maker("a sweep", "base", "settings", unsealed=True)},
    ],
)
def test_a_job_is_read_as_it_was_given(changes):
    job = replace(JOB, **changes)
    assert Job.from_config(json.loads(json.dumps(job.as_config()))) == job
    assert pickle.loads(pickle.dumps(job)) == job, "a mailbox passes it on as it is"


def test_where_mlflow_is_does_not_travel():
    told = EXPERIMENT.model_copy(
        update={"tracking": EXPERIMENT.tracking.model_copy(update={"uri": "http://ada:sesame@db"})}
    )
    config = replace(JOB, experiment=told).as_config()
    assert "sesame" not in json.dumps(config)
    assert Job.from_config(config) == JOB
