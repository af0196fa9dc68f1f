"""What is called clean: every broken promise is seen, and nothing else."""

import json
import os
import signal
import subprocess
import sys

import pytest

from benchmarks import chaos, chaos_sweep


@pytest.fixture
def at(tmp_path):
    (tmp_path / "s" / chaos_sweep.NAME).mkdir(parents=True)
    return chaos_sweep.Place(tmp_path, tmp_path / "s", tmp_path / "s.yaml", f"mark-{os.getpid()}")


REPORT = {"task_index": 0, "step": 3, "fraction": 0.5, "losses": [1.5], "seconds": 2.0}
GOOD = [
    {"event": "trial_proposed", "trial": "t001", "overrides": {"a": 1}},
    {"event": "trial_started", "trial": "t001"},
    {"event": "stage_report", "trial": "t001", "report": REPORT},
    # killed here, and gone on
    {"event": "trial_started", "trial": "t001"},
    {"event": "stage_report", "trial": "t001", "report": {**REPORT, "step": 6, "fraction": 1.0}},
    {"event": "trial_ended", "trial": "t001", "state": "COMPLETE", "measures": {}, "adapter": None},
]


def journal(at, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (at.folder / "journal.jsonl").write_text(text + '{"event": "torn')


@pytest.mark.parametrize(("added", "found"), [
    ([], []),
    ([GOOD[2]], ["stage_report of t001 after its end",
                 "t001 reported step 3 of task 0 twice"]),
    ([GOOD[1]], ["trial_started of t001 after its end"]),
    ([GOOD[5]], ["t001 ended twice"]),
])  # fmt: skip
def test_broken_promises_are_found(at, monkeypatch, added, found):
    monkeypatch.setattr(chaos_sweep, "_mlflow_faults", lambda _: [])
    journal(at, [*GOOD, *added])
    assert chaos_sweep.broken_promises(at) == found


def test_outcomes_differ_by_what_was_computed_and_not_by_time(at):
    def outcome(report):
        journal(at, [*GOOD[:2], {**GOOD[2], "report": report}, *GOOD[4:]])
        return chaos_sweep.outcome(at)

    first = outcome(REPORT)
    assert outcome({**REPORT, "seconds": 9.0}) == first
    again = chaos.differences(first, outcome({**REPORT, "losses": [1.5000000000000002]}))
    assert len(again) == 1
    assert "losses" in again[0]


def test_what_a_command_has_started_is_found_by_its_mark(at):
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, chaos_sweep.MARK: at.mark},
    )  # fmt: skip
    try:
        assert [process.pid for process in chaos_sweep.marked(at.mark)] == [child.pid]
        assert len(chaos_sweep.left_after(at.mark, 0.1)) == 1
        assert not chaos_sweep.marked("another")
        chaos_sweep.end_all(at.mark)
        assert child.wait(10) == -signal.SIGKILL
        assert chaos_sweep.left_after(at.mark, 10) == []
    finally:
        child.kill()


def test_the_page_counts_strikes_and_clean_sweeps():
    line = {"fault": "driver", "executor": "pool", "processor": "P: no bf16", "code": "c0ffee",
            "strikes": [{}, {}], "found": []}  # fmt: skip
    text = chaos.page([line, {**line, "found": ["left running: raylet"], "strikes": [{}]}])
    assert "| SIGKILL of the driver | pool | 3 | 2 | 1 | left running: raylet (c0ffee) |" in text
