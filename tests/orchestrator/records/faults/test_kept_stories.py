"""Which lines a journal keeps where others are missing."""

import pytest

from orchestrator.records.faults.kept_stories import kept_stories
from orchestrator.records.faults.vouched_lines import Vouched

STAGES = [(0, 0.5), (0, 1.0)]


def told(*events):
    """Numbered lines; each event is a name or (name, trial) or (name, trial, stage)."""
    lines = {0: {"n": 0, "event": "sweep_opened"}}
    for number, (event, *of) in enumerate(events, start=1):
        line = {"n": number, "event": event}
        if of:
            line["trial"] = of[0]
        if event == "trial_ended":
            line["state"] = "COMPLETE"
        if len(of) > 1:
            line["report"] = {"task_index": of[1][0], "fraction": of[1][1]}
        lines[number] = line
    return lines


def trial(name):
    return [
        ("trial_proposed", name), ("trial_started", name),
        *(("stage_report", name, stage) for stage in STAGES), ("trial_ended", name),
    ]  # fmt: skip


WHOLE = told(*trial("t001"), *trial("t002"), ("sweep_ended",), ("test_read",))
"""t001 has the lines 1 to 5, t002 those from 6 to 10."""


def without(*lost, of=WHOLE):
    return kept_stories(Vouched({n: x for n, x in of.items() if n not in lost}, lost))


def numbers(kept):
    return [line["n"] for line in kept.lines]


def test_with_nothing_lost_everything_is_kept():
    assert numbers(without()) == list(WHOLE)


def test_a_lost_report_lets_its_trial_go_on_from_there_and_no_other():
    kept = without(8)  # t002's first report
    assert list(kept.cut) == ["t002"]
    assert numbers(kept) == [0, 1, 2, 3, 4, 5, 6, 7, 12], "no verdict; test data stay looked at"


@pytest.mark.parametrize("lost", [7, 10])
def test_a_lost_start_or_end_loses_no_report(lost):
    kept = without(lost)
    assert kept.cut == {}
    assert numbers(kept) == [n for n in WHOLE if n != lost]


def test_a_lost_proposal_loses_its_trial():
    kept = without(6)
    assert list(kept.cut) == ["t002"]
    assert "what was tried" in kept.cut["t002"]
    assert numbers(kept) == [0, 1, 2, 3, 4, 5, 12]


def test_without_a_whole_trial_to_compare_with_a_story_ends_at_the_gap():
    lines = told(*trial("t001"), ("sweep_ended",))
    kept = without(2, of=lines)
    assert numbers(kept) == [0, 1]
    assert list(kept.cut) == ["t001"]


def test_a_lost_verdict_costs_no_trial():
    kept = without(11)
    assert kept.cut == {}
    assert numbers(kept) == [n for n in WHOLE if n != 11]
