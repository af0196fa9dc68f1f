"""Which checkpoint is gone on from where the machine's clock was set back between two."""

import os

from orchestrator.loop.task_sequence import Start
from orchestrator.loop.trial_checkpoints import found_checkpoint, furthest_first, keep_checkpoint
from orchestrator.loop.trial_state import TrialState, read_state, write_state
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.system.seals import Maker

MAKER = Maker("a sweep", "t001", "some settings")


def checkpoint(folder, reports, hour):
    """One with so many reports, written at an hour of the day."""
    done = tuple(StageReport("mood", 0, step, 4, step / 4, 0.6) for step in range(1, reports + 1))
    write_state(folder, TrialState(AccuracyMatrix(("mood",), ()), Start(step=reports), done))
    os.utime(folder / "trial.json", (hour * 3600, hour * 3600))
    return folder


def test_the_furthest_comes_first_and_of_two_as_far_the_later(tmp_path):
    places = [
        checkpoint(tmp_path / name, reports, hour)
        for name, reports, hour in [("a", 1, 12), ("b", 3, 10), ("c", 2, 11), ("d", 3, 9)]
    ]
    assert [place.name for place in furthest_first(places)] == ["b", "d", "c", "a"]
    (tmp_path / "c" / "trial.json").write_text("{")
    first = furthest_first(places)[0]
    assert first.name == "c", "so that it is set aside where it would be used"


def test_what_is_kept_beside_the_last_is_the_one_before_it(tmp_path):
    kept = tmp_path / "checkpoint"
    for reports, hour in [(1, 12), (2, 11), (3, 10)]:
        keep_checkpoint(checkpoint(tmp_path / "fresh", reports, hour), kept, MAKER)
    (former,) = tmp_path.glob("*.old")
    assert len(read_state(former).reports) == 2
    checkpoint(tmp_path / "checkpoint.0.old", 1, 13)  # what another process may have left
    (kept / "trial.json").write_text("")
    found, [aside] = found_checkpoint(kept, MAKER)
    assert (found, aside.what) == (kept, kept)
    assert len(read_state(kept).reports) == 2
