"""The log for programs."""

import json

import pytest

from orchestrator.records.events import SweepOpened, TrialEnded, TrialStarted
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.telemetry.structured_log import structured_log
from tests.made_up_sweep import MadeUp, answers


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_line_has_the_sweep_the_trial_and_its_attempt(tmp_path, recorder):
    path = tmp_path / "log.jsonl"
    with structured_log(recorder, str(path)) as told:
        sweep = MadeUp(tmp_path / "made-up", told)
        told.event(SweepOpened(sweep="made-up", n=0, time=1.0), replayed=True)
        sweep.run(lambda name, _: answers(0.5 if name == "base" else 0.8))
    lines = read(path)
    assert {line["sweep"] for line in lines} == {"made-up"}
    of_trial = [line for line in lines if line["trial"] == "t001" and line["event"] != "note"]
    kinds = [line["event"] for line in of_trial]
    assert kinds == ["trial_proposed", "trial_started", "stage_report", "trial_ended"]
    assert [line["attempt"] for line in of_trial] == [None, 1, 1, 1]
    assert of_trial[2]["score"] == pytest.approx(0.8, abs=0.2)
    assert of_trial[3]["state"] == "COMPLETE"
    assert "gain" in of_trial[3]["measures"]
    assert "per_example" not in of_trial[2]
    # Whoever is shown the sweep is told as before.
    assert len(recorder.events("trial_ended")) == 2


def test_what_an_earlier_process_has_logged_is_not_logged_again_but_its_attempts_count(
    tmp_path, recorder
):
    path = tmp_path / "log.jsonl"
    path.write_text("{}\n", encoding="utf-8")
    with structured_log(recorder, str(path)) as told:
        told.event(SweepOpened(sweep="one", n=0, time=1.0, yaml="password"), replayed=True)
        told.event(TrialStarted("t001", 4, n=1, time=2.0), replayed=True)
        told.event(TrialEnded("t001", "FAILED", "https://me:secret@host is away", n=2, time=3.0))
        told.progress("t001", {"phase": "training"})
    first, line = read(path)
    assert first == {}
    assert line["attempt"] == 4
    assert line["reason"] == "https://***@host is away"
    assert recorder.steps == [("t001", {"phase": "training"})]


def test_without_a_file_nothing_is_between_and_one_that_cannot_be_written_is_refused(
    tmp_path, recorder
):
    with structured_log(recorder, "") as told:
        assert told is recorder
    with (
        pytest.raises(SweepError, match=r"ORCHESTRATOR_LOG names the log .*No such file"),
        structured_log(recorder, str(tmp_path / "none" / "log")),
    ):
        pass
