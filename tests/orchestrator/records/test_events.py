import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from orchestrator.records import events
from orchestrator.records.errors import JournalError
from orchestrator.records.event_values import (
    EarlyStop,
    ExtensionSide,
    Finalist,
    SideScores,
    TaskScores,
)
from orchestrator.records.events import EVENTS, UnknownEvent, read_event
from orchestrator.records.journal import Journal
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.strict_json import without_nan

REPORT = StageReport(
    "mood", 1, 8, 8, 1.0, 0.75, loss=0.5, losses=(0.6, 0.5), learning_rates=(1e-3, 1e-4),
    tokens=90, seconds=1.5, row=(0.75, 0.5), probes={"docs": {"cross_entropy": 3.0}},
    metrics={"mood": {"accuracy": 0.75}}, per_example={"mood": (1.0, 0.5)},
)  # fmt: skip
SIDE = SideScores(
    (0.5,), {"mood": {"accuracy": 0.5}}, {"mood": (1.0, 0.0)}, {"mood": {"accuracy": 0.5}},
    {"mood": (0.0, 1.0)},
)  # fmt: skip
CELL = TaskScores(0.5, 2, {"accuracy": 0.5}, (1.0, 0.0))
FINALIST = Finalist("t002", ("t002-s1",), {"gain": 0.5}, {"gain": 0.125})
BESIDE = ExtensionSide({"mood": 0.5}, 0.5, [0.25, 0.75], -0.25, None, {"mood": None})
STOP = EarlyStop("mood", 0.5, "gain", "t001", 0.25, (0.125, 0.375), {"gain": 0.0})
WHOLE = [
    events.SweepOpened("demo", "0" * 32, "run", {"name": "demo"}, {"mood": {"kind": "c"}}, "name:",
                       "demo.yaml", {"base": {"sha256": "a"}}, {"mood": {"chance": 0.5}},
                       {"used": "fp32", "reason": "no bf16"}, 1),
    events.SweepContinued(4, ["t001"], {"name": "m"}, {"version": "1"}, {"torch": "2"}, "3.11",
                          "Linux", "1" * 32, "30min", "20 core-hours"),
    events.TrialProposed("t002", {"method.adapter.r": 4}, "fresh seed", "t001"),
    events.TrialStarted("t002", 2, {"torch": "2"}),
    events.StageReported("t002", REPORT, "trials/t002/adapters/after-1", "cd"),
    events.TrialEnded("t002", "COMPLETE", "why", {"gain": 0.25, "retention": None}, [0.0, 0.5],
                      {"zero_shot": [0.0, 0.5], "majority": None}, "trials/t002/adapter", "ab",
                      "trials/t002/log.txt", "trials/t002/carried", "ef", 512, STOP),
    events.CellsScored("t002", 1, {"mood": CELL}, {"being": "it is gone"}, {"new": {"kind": "c"}}),
    events.TrialMeasured("t002", {"mood": 2}, {"gain": 0.25}, [0.0, 0.5], {"zero_shot": None}),
    events.BudgetSpent(1.5, 3.0, 0.5, 1.25),
    events.RequestTaken("17-ab", "add", "t007", "me@here", "a hunch", "it cannot be"),
    events.SetAside("t002", "adapter", "adapter.aside", "it is damaged"),
    events.FaultSurvived("member_died", "member-0", "killed", {"t001": 1.5}, 1.0, 2.0),
    events.JournalRepaired("journal.jsonl.set-aside-1", [3], {"t001": "a report"}, {"t002": 1}),
    events.SweepStopped("everything failed", ["t001"]),
    events.SweepEnded(["t002"], "t002", "best", (FINALIST,), 2, {"t002": [0.0, 0.5]},
                      "t001", [-0.1, 0.2], {"time": 60.0}, 0.02, 0.03),
    events.ExtensionMeasured({"trial": "t001"}, ["mood"], ["new"], {"mood": 0.5}, {"t002": BESIDE}),
    events.TestRead(1, "the verdict", "t002", "t001", "knee", {"mood": 9}, {"base": SIDE},
                    {"t001": "no room"}, "the base", {"majority": [0.5]}, {"t002": 0.75},
                    {"t002": 0.25}, {"t002": None}, {"t002": {"zero_shot": None}}, [0.0, 0.1]),
    events.ChampionRegistered("t002", "demo", "1"),
]  # fmt: skip


def test_every_event_is_tried_whole():
    """What follows says something of every field only if none has its default here."""
    assert [type(event) for event in WHOLE] == list(EVENTS)
    for event in WHOLE:
        shown = {
            f.name for f in fields(event) if getattr(event, f.name) not in (None, "", {}, [], ())
        }
        assert shown >= {f.name for f in fields(event)} - {"n", "time"}


@pytest.mark.parametrize("event", WHOLE, ids=lambda event: event.name)
def test_an_event_comes_back_from_its_line(event, tmp_path):
    with Journal(tmp_path, clock=lambda: 12.5) as journal:
        journal.append(events.SweepOpened("demo"))
        written = journal.append(event)
        assert (written.n, written.time) == (1, 12.5)
        assert list(journal.events())[1] == written
    [_, line] = read_journal(tmp_path)
    assert read_event(line) == written
    assert line == json.loads(json.dumps(written.to_line()))
    held = [f.name for f in fields(event) if f.name not in {"n", "time"}]
    assert list(line) == ["n", "time", "event", *held], "in this order: sums are over the text"


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.name)
def test_the_documented_fields_are_those_of_the_class(kind):
    text = (Path(__file__).parents[3] / "docs" / "journal.md").read_text()
    [row] = re.findall(rf"^\| `{kind.name}` \| (.*) \|$", text, re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == [
        f.name for f in fields(kind) if f.name not in {"n", "time"}
    ]


def test_what_is_said_only_sometimes_is_no_null_in_the_line():
    assert "of" not in events.TrialProposed("t001").to_line()
    assert "sweep_id" not in events.SweepContinued(2).to_line()
    unread = events.TestRead(None, "the verdict", "t001", unread={"t001": "no room"}).to_line()
    assert list(unread) == [
        "event", "reading", "purpose", "champion", "runner_up", "examples", "sides", "unread",
    ]  # fmt: skip
    assert events.TrialEnded("t001", "FAILED").to_line()["measures"] is None


OLD = {
    "sweep_opened": (
        {"sweep": "old", "experiment": {"name": "old"}, "tasks": None},
        events.SweepOpened("old", experiment={"name": "old"}),
    ),
    "sweep_continued": ({"code": {"version": "0"}}, events.SweepContinued(code={"version": "0"})),
    "trial_proposed": ({"trial": "t"}, events.TrialProposed("t")),
    "trial_started": ({"trial": "t", "attempt": 2}, events.TrialStarted("t", 2)),
    "stage_report": (
        {"trial": "t", "report": {"task": "", "task_index": -1, "score": None, "row": [None, 0.5]}},
        None,
    ),
    "trial_ended": ({"trial": "t", "state": "FAILED"}, events.TrialEnded("t", "FAILED")),
    "cells_scored": ({"trial": "t", "learnt": 1}, events.CellsScored("t", 1)),
    "trial_measured": ({"trial": "t"}, events.TrialMeasured("t")),
    "budget_spent": ({"seconds": 1.0}, events.BudgetSpent(1.0)),
    "set_aside": ({"trial": "t"}, events.SetAside("t")),
    "sweep_stopped": ({}, events.SweepStopped()),
    "sweep_ended": (
        {"front": ["t"], "champion": "t", "reason": "best"}, events.SweepEnded(["t"], "t", "best"),
    ),
    "test_read": ({"reading": None, "champion": "t"}, events.TestRead(champion="t")),
    "champion_registered": (
        {"trial": "t", "model": "m", "version": "1"}, events.ChampionRegistered("t", "m", "1"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_lines_of_earlier_versions_are_understood(name):
    held, expected = OLD[name]
    found = read_event({"n": 0, "time": 1.0, "event": name, **held, "added_later": 1})
    if isinstance(found, events.StageReported):
        assert without_nan(found.to_line())["report"]["row"] == [None, 0.5]
        assert (found.report.stage, found.report.losses) == ((-1, 1.0), ())
    else:
        assert found.to_line() == {"n": 0, "time": 1.0, **expected.to_line()}
    SweepState().take(found)


def test_an_event_of_a_later_version_is_kept_as_it_is():
    line = {"n": 3, "time": 1.0, "event": "coffee_made", "trial": "t001", "strength": 2}
    event = read_event(line)
    assert isinstance(event, UnknownEvent)
    assert event.to_line() == line


def test_a_line_that_lacks_what_every_version_wrote_is_one_message():
    with pytest.raises(JournalError, match="Line 7 of the journal, `trial_ended`, lacks `state`"):
        read_event({"n": 7, "time": 1.0, "event": "trial_ended", "trial": "t001"})
