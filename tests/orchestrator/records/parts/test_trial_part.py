"""Some trials of a journal say the same alone as among all others."""

import json

import pytest

from orchestrator.records.errors import JournalError
from orchestrator.records.journal_lines import read_journal, sealed
from orchestrator.records.parts.trial_part import adapter_part
from orchestrator.records.sweep_state import SweepState
from tests.synthetic_sweeps import write_sweep


def rewritten(path, change):
    """A journal with other lines, sealed as those of a sweep are."""
    lines, before, content = change(read_journal(path.parent)), b"", b""
    for n, line in enumerate(lines):
        before = sealed(json.dumps({**line, "n": n}).encode(), before)
        content += before + b"\n"
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    return write_sweep(tmp_path, "s", 12)


def test_a_trial_the_base_and_the_verdict_are_as_in_the_whole_journal(folder):
    whole, part = SweepState.of(read_journal(folder)), adapter_part(folder, ["t003", "lost"])
    assert list(part.everything) == ["base", "t003"]
    assert {name: whole.everything[name] for name in part.everything} == part.everything
    assert part.verdict == whole.verdict
    assert (part.identity, part.experiment) == (whole.identity, whole.experiment)


def test_a_trial_whose_training_was_taken_over_comes_along(folder):
    def taken(lines):
        reports = (x for x in lines if x["event"] == "stage_report" and x["trial"] == "t006")
        next(reports)["report"]["taken_from"] = "t002"
        return lines

    rewritten(folder / "journal.jsonl", taken)
    assert list(adapter_part(folder, ["t006"]).everything) == ["base", "t002", "t006"]


def test_a_verdict_is_void_once_a_trial_that_is_left_out_goes_on(folder):
    started = {"event": "trial_started", "trial": "t007", "time": 1.0, "attempt": 2}
    rewritten(folder / "journal.jsonl", lambda lines: [*lines, started])
    assert SweepState.of(read_journal(folder)).verdict is None
    part = adapter_part(folder, ["t003"])
    assert part.verdict is None
    assert part.last_verdict is not None


def test_lines_that_are_left_out_are_checked_all_the_same(folder):
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"trial":"t009"', b'"trial":"t010"', 1))
    with pytest.raises(JournalError, match="is not as it was written"):
        adapter_part(folder, ["t003"])
    with pytest.raises(JournalError, match="Cannot read the journal"):
        adapter_part(folder / "none", ["t003"])
