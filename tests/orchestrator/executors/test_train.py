"""A trial with Ray Train workers ends with the reports of its last whole checkpoint."""

import pytest
import ray.train.torch
import ray.tune
import ray.tune.integration.ray_train
from ray.train import UserCallback

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Finished, WorkSetAside, from_metrics
from orchestrator.executors.train import trial_function
from orchestrator.loop.task_sequence import Start
from orchestrator.loop.trial_state import TrialState, write_state
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system.seals import Maker, seal
from tests.made_up_sweep import experiment

MAKER = Maker("a sweep", "t001", "some settings")
REPORTS = tuple(StageReport("mood", 0, step, 4, step / 4, 0.5) for step in (1, 2))
NOTE = "checkpoint_manager_snapshot.json"


def checkpoint(work, number, maker=MAKER):
    folder = work / f"checkpoint_{number}"
    write_state(folder, TrialState(AccuracyMatrix.empty(["mood"]), Start(), REPORTS[:number]))
    seal(folder, maker)
    return folder


@pytest.fixture
def told(monkeypatch):
    """What a trial tells Ray Tune."""
    said = []
    monkeypatch.setattr(ray.tune, "report", lambda metrics: said.append(from_metrics(metrics)))
    monkeypatch.setattr(ray.tune.integration.ray_train, "TuneReportCallback", UserCallback)
    return said


def test_what_is_left_is_what_its_own_workers_made_whole(tmp_path, monkeypatch, told):
    job = Job(experiment(), MAKER, SweepFolder(tmp_path))
    work = job.folder.work("t001")
    first = checkpoint(work, 1)
    (work / NOTE).write_text("cut o")

    class Trainer:
        """Workers that are killed in the middle of their second checkpoint."""

        def __init__(self, *given, run_config, **named):
            assert run_config.storage_path == str(job.folder.ray)

        def fit(self):
            assert not (work / NOTE).exists(), "a damaged note stops Ray Train"
            (checkpoint(work, 2) / "trial.json").write_text("")

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    trial_function(job)
    aside, last = told
    assert isinstance(aside, WorkSetAside)
    assert (aside.what.name, aside.because) == ("checkpoint_2", "its file trial.json is damaged")
    assert last == Finished(REPORTS[:1], first)
