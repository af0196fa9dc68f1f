"""Checkpoints of Ray Train workers: which is gone on from, and when each is on the disk."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray.train

from orchestrator.executors import train_worker
from orchestrator.executors.messages import Reported, from_metrics
from orchestrator.executors.train_worker import run_checkpoint
from orchestrator.loop.task_sequence import Start
from orchestrator.loop.trial_state import TrialState, write_state
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system.seals import Maker, flaw, seal

MAKER = Maker("a sweep", "t001", "some settings")
REPORT = StageReport("mood", 0, 2, 4, 0.5, 0.6)
NAMES = [f"checkpoint_2026-11-28_0{hour}-00-00.000000" for hour in range(3)]


def write_part(folder, part, maker=MAKER):
    """What one of two workers writes of a checkpoint, sealed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"optimizer-rank{part}.safetensors").write_text(f"moments of {folder.name}")
    if part == 0:
        (folder / "trial.json").write_text("{}")
    seal(folder, maker, part=part, parts=2)


@pytest.fixture
def left(tmp_path):
    """The folder of a sweep in which the workers of t001 have left three checkpoints."""
    folder = SweepFolder(tmp_path)
    for name in NAMES:
        for part in (0, 1):
            own = tmp_path / "scratch" / name
            write_part(own, part)
            shutil.copytree(own, folder.work("t001") / name, dirs_exist_ok=True)
            shutil.rmtree(own)
    return folder


def cut(place):
    file = place / "optimizer-rank1.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def tear_state(place):
    (place / "trial.json").write_text("")


def lose_part(place):
    (place / "seal-1.json").unlink()


def unseal(place):
    (place / "seal.json").unlink()


def foreign(**other):
    def of_another(place):
        shutil.rmtree(place)
        for part in (0, 1):
            write_part(place, part, replace(MAKER, **other))

    return of_another


HARM = {
    "damaged": (cut, "its file optimizer-rank1.safetensors is damaged"),
    "torn": (tear_state, "its file trial.json is damaged"),
    "a worker's part is missing": (lose_part, "its seal cannot be read"),
    "unsealed": (unseal, "it has no seal"),
    "of another sweep": (foreign(sweep="other"), "it belongs to trial t001 of the sweep other"),
    "of another trial": (foreign(trial="t002"), "it belongs to trial t002 of the sweep a sweep"),
    "of other settings": (foreign(made_of="seed 5"), "it was made with other settings"),
}


def test_a_trial_goes_on_from_the_last_checkpoint(left):
    assert run_checkpoint(left, MAKER) == (left.work("t001") / NAMES[-1], [])
    assert run_checkpoint(left, replace(MAKER, trial="t002")) == (None, []), "it has none"


@pytest.mark.parametrize(("harm", "because"), HARM.values(), ids=HARM)
def test_what_is_damaged_or_foreign_is_set_aside_and_the_one_before_used(left, harm, because):
    work = left.work("t001")
    harm(work / NAMES[-1])
    found, [aside] = run_checkpoint(left, MAKER)
    assert found == work / NAMES[-2]
    assert aside.what == work / NAMES[-1]
    assert aside.because.startswith(because)
    assert aside.kept_as.is_dir(), "it can be looked at"
    assert not any(aside.what.iterdir()), "Ray Train, which removes it in its time, finds a folder"
    assert run_checkpoint(left, MAKER) == (found, []), "said once"


def test_a_clock_that_was_set_back_does_not_choose_an_older_checkpoint(left):
    """Ray Train names them by the time at which they were written."""
    work = left.work("t001")
    for name, reports in zip(NAMES, (3, 1, 2), strict=True):
        state = TrialState(AccuracyMatrix(("mood",), ()), Start(), (REPORT,) * reports)
        write_state(work / name, state)
        seal(work / name, MAKER, part=0, parts=2)
    assert run_checkpoint(left, MAKER) == (work / NAMES[0], [])


def test_without_a_whole_checkpoint_a_trial_starts_over(left):
    for name in NAMES:
        cut(left.work("t001") / name)
    found, aside = run_checkpoint(left, MAKER)
    assert found is None
    assert [thing.what.name for thing in aside] == NAMES[::-1]


class Kept:
    """Ray Train, as far as it is told of a checkpoint, with the rank of one of two workers."""

    def __init__(self, monkeypatch, rank):
        self.told = []
        context = SimpleNamespace(get_world_rank=lambda: rank, get_world_size=lambda: 2)
        monkeypatch.setattr(ray.train, "get_context", lambda: context)
        monkeypatch.setattr(ray.train, "report", self.report)

    def report(self, metrics, *, checkpoint, checkpoint_upload_fn):
        kept = checkpoint_upload_fn(checkpoint, NAMES[0])
        self.told.append((from_metrics(metrics), kept.path))


def test_the_parts_of_all_workers_are_on_the_disk_before_they_are_told(
    tmp_path, monkeypatch, synced
):
    work = SweepFolder(tmp_path).work("t001")
    work.mkdir(parents=True)
    for rank in (1, 0):
        told = Kept(monkeypatch, rank).told
        checkpoints = train_worker._RayTrainCheckpoints(MAKER, work)
        fresh = checkpoints.fresh()
        write_part(fresh, rank)
        synced.clear()
        checkpoints.keep(fresh, REPORT)
        assert not fresh.exists()
        assert told == [(Reported(REPORT), str(work / NAMES[0]))]
        assert f"sync optimizer-rank{rank}.safetensors" in synced
        assert synced[-2:] == [f"sync {NAMES[0]}", "sync t001"]
        assert (flaw(work / NAMES[0], MAKER) is None) == (rank == 0), "whole with both"
    assert run_checkpoint(SweepFolder(tmp_path), MAKER) == (work / NAMES[0], [])


def test_what_a_trial_begins_with_is_found_until_it_has_a_checkpoint_of_its_own(tmp_path):
    folder, maker = SweepFolder(tmp_path), Maker("sweep", "t001", "made of")
    beginning, own = folder.checkpoint("t001"), folder.work("t001") / "checkpoint_2026-11-28"
    for place in (beginning, own):
        place.mkdir(parents=True)
        (place / "trial.json").write_text("{}")
        seal(place, maker)
        assert run_checkpoint(folder, maker) == (place, [])
