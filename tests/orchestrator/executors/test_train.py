"""A trial with Ray Train workers ends with the reports of its last whole checkpoint."""

import types
from pathlib import Path

import pytest
import ray
import ray.train.torch

from orchestrator.executors.job import Job
from orchestrator.executors.messages import (
    Failed,
    Finished,
    Ready,
    Reported,
    WorkSetAside,
    to_metrics,
)
from orchestrator.executors.train import TrainTrial, _ReportsTo
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
def trial(monkeypatch):
    """A trial's actor, in this process."""
    here = types.SimpleNamespace(current_actor=None)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    return TrainTrial()


def test_what_is_left_is_what_its_own_workers_made_whole(tmp_path, monkeypatch, trial):
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
    aside, last = trial.run(job, [])
    assert isinstance(aside, WorkSetAside)
    assert (aside.what.name, aside.because) == ("checkpoint_2", "its file trial.json is damaged")
    assert last == Finished(REPORTS[:1], first)


def test_workers_that_fail_again_and_again_fail_their_trial_with_its_log(
    tmp_path, monkeypatch, trial
):
    job = Job(experiment(), MAKER, SweepFolder(tmp_path))

    class Trainer:
        def __init__(self, *given, **named):
            pass

        def fit(self):
            raise ray.train.WorkerGroupError("they died", {0: RuntimeError("no memory left")})

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    (failed,) = trial.run(job, [])
    assert isinstance(failed, Failed)
    assert failed.reason == "no memory left"
    assert "no memory left" in Path(failed.log).read_text()


def test_what_the_first_worker_reports_comes_to_the_desk_with_its_checkpoint(trial):
    actor = types.SimpleNamespace(say=types.SimpleNamespace(remote=trial.say))
    callback = _ReportsTo(actor, "t001")
    callback.after_report(None, [to_metrics(Ready(7)), to_metrics(Ready(8))], None)
    kept = types.SimpleNamespace(path="/runs/t001/checkpoint_1")
    callback.after_report(None, [to_metrics(Reported(REPORTS[0]))], kept)
    callback.after_report(None, [{"loss": 1.0}], None)  # not ours
    assert trial.swap().said == (
        ("t001", Ready(7)), ("t001", Reported(REPORTS[0], Path(kept.path))),
    )  # fmt: skip
