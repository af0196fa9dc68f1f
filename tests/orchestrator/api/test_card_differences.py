"""Adapters are compared by what their cards say and by the examples that both were scored on."""

import math

import pytest

from orchestrator import diff
from orchestrator.measures.intervals import gain_interval
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.user_error import UsageError
from tests import written_journals


@pytest.fixture
def lines(new_sweep):
    """Two trials whose adapters after each task were kept, one of which took over a task."""
    provenance = {"base": {"sha256": "a" * 64}, "data": {f"task{i}": str(i) * 64 for i in range(3)}}
    lines = new_sweep(trials=3, tested=True, provenance=provenance, sweep="made-up", sweep_id="i")
    for line in lines:
        if line["event"] == "stage_report" and line["trial"] != "base":
            report = line["report"]
            line["adapter"] = f"trials/{line['trial']}/adapters/after-{report['task_index'] + 1}"
            line["adapter_sha256"] = "b" * 64
            report |= {"tokens": 100 * (report["task_index"] + 1), "seconds": 5.0}
            if (line["trial"], report["task_index"]) == ("t003", 0):
                report["taken_from"] = "t001"
    return lines


@pytest.fixture
def storage(tmp_path, lines):
    written_journals.write(tmp_path, "demo", lines)
    return tmp_path


def test_an_adapter_does_not_differ_from_itself(storage):
    for name in ("demo/t001@task1", "demo/t001@3"):
        found = diff(name, name, storage)
        assert (found["settings"], found["provenance"]) == ({}, {})
        assert all(pair["difference"] == 0 for pair in found["measures"].values())
        assert found["left"] == found["right"]


def test_a_trial_before_and_after_its_last_task(storage, lines):
    found = diff("demo/t001@task1", "demo/t001", storage)
    view = SweepState.of(lines)
    rows = view.matrix(view.trial("t001")).rows
    assert found["left"] == "made-up/t001@task1"
    assert found["settings"]["tasks"] == {
        "left": ["task0", "task1"], "right": ["task0", "task1", "task2"]}  # fmt: skip
    for place, task in enumerate(view.tasks):
        pair = found["scores"][task]
        assert (pair["left"], pair["right"]) == (rows[2][place], rows[3][place])
        assert (pair["examples"], pair["interval"]) == (None, None), "examples of one are not kept"
    assert found["measures"]["cost.tokens"] == {"left": 200.0, "right": 300.0, "difference": 100.0}
    assert math.isnan(found["measures"]["gain"]["left"])
    lost = rows[1][0] - rows[2][0]
    assert found["forgotten"]["task0"]["left"] == pytest.approx(lost)
    assert found["provenance"]["parent.learnt"] == {"left": 1, "right": 2}
    assert found["test"].keys() <= set(view.tasks)


def test_two_last_adapters_are_paired_where_the_data_are_the_same(storage, lines):
    found = diff("demo/t001@3", "demo/t003", storage)
    view = SweepState.of(lines)
    mine, other = (view.trial(name).per_example for name in ("t003", "t001"))
    for task in view.tasks:
        made = gain_interval([mine[task]], [other[task]])
        assert found["scores"][task]["examples"] == 20
        low, high = found["scores"][task]["interval"]
        assert made.low - 0.1 < low <= high < made.high + 0.1
        pair = found["scores"][task]
        assert pair["difference"] == pytest.approx(sum(mine[task]) / 20 - sum(other[task]) / 20)
    assert found["interval"][0] < found["interval"][1]


def test_whose_training_was_taken_over_is_known_without_the_other_trials(storage):
    found = diff("demo/t001@1", "demo/t003@1", storage)
    assert found["provenance"]["same_as.trial"] == {"left": None, "right": "t001"}


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ("demo/t001@task9", "demo/t001", "should stand one of its tasks"),
        ("demo/t009@task1", "demo/t001", "No trial 't009'"),
        ("demo", "demo/t001@task1", "can be compared"),
        ("dmeo/t001@1", "demo/t001", "Did you mean 'demo'"),
    ],
)
def test_what_is_not_there_is_named(storage, left, right, said):
    with pytest.raises(UsageError, match=said):
        diff(left, right, storage)
