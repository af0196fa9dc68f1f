import math

import pytest

from orchestrator.api.differences import diff_sweeps, diff_trials
from orchestrator.measures.intervals import gain_interval
from orchestrator.records.sweep_state import SweepState


@pytest.fixture
def view(new_sweep):
    return SweepState.of(new_sweep(trials=3, failing=[2]))


def both(view, left, right):
    return diff_trials((view, view.trial(left)), (view, view.trial(right)))


def test_a_trial_does_not_differ_from_itself(view):
    found = both(view, "t001", "t001")
    assert not found["settings"]
    assert not found["provenance"]
    assert all(pair["difference"] == 0 for pair in found["measures"].values())
    assert found["interval"] == [0, 0]


def test_only_what_differs_is_listed_and_differences_are_right_minus_left(view):
    found, back = both(view, "t001", "t003"), both(view, "t003", "t001")
    left, right = (view.settings(view.trial(name)) for name in ("t001", "t003"))
    assert set(found["settings"]) == {p for p in {*left, *right} if left.get(p) != right.get(p)}
    gains = [view.trial(name).measure("gain") for name in ("t001", "t003")]
    assert found["measures"]["gain"]["difference"] == pytest.approx(gains[1] - gains[0])
    assert back["interval"] == pytest.approx([-found["interval"][1], -found["interval"][0]])


def test_interval_is_that_of_the_examples_scores(view):
    found = both(view, "t001", "t003")
    scores = [
        [view.trial(name).per_example[task] for task in view.tasks] for name in ("t003", "t001")
    ]
    expected = gain_interval(*scores)
    assert found["interval"] == [expected.low, expected.high]
    alone = gain_interval([scores[0][1]], [scores[1][1]])
    assert found["scores"]["task1"]["interval"] == [alone.low, alone.high]


def test_trial_that_failed_has_no_difference(view):
    found = both(view, "t001", "t002")
    assert found["interval"] is None
    assert math.isnan(found["scores"]["task0"]["right"])
    assert found["scores"]["task0"]["interval"] is None


def test_a_screened_trial_is_compared_on_the_examples_that_it_has(view):
    screened, whole = view.trial("t001"), view.trial("t003")
    report = next(r for r in reversed(screened.reports) if r.row is not None and r.per_example)
    for task, scores in report.per_example.items():
        report.per_example[task] = scores[:5]
    found = both(view, "t001", "t003")
    for task in view.tasks:
        pair, scores = found["scores"][task], whole.per_example[task]
        assert len(scores) > pair["examples"] == 5
        assert pair["right"] == pytest.approx(sum(scores[:5]) / 5)
        assert pair["left"] == pytest.approx(sum(screened.per_example[task]) / 5)
    assert found["interval"] is not None


def test_measures_are_those_of_the_same_examples(view):
    few, whole = view.trial("t001"), view.trial("t003")
    whole.whole_examples = dict.fromkeys(view.tasks, 9)
    whole.searched_measures = {**whole.searched_measures, "gain": 0.125}
    few.whole_examples = dict.fromkeys(view.tasks, 5)
    found = both(view, "t001", "t003")
    assert found["measures"]["gain"]["right"] == 0.125
    assert found["examples"]["left"] == found["examples"]["right"] == few.examples


def test_examples_of_other_data_are_not_paired(new_sweep):
    data = {f"task{i}": "aa" for i in range(3)}
    left = SweepState.of(new_sweep(provenance={"data": data}))
    right = SweepState.of(new_sweep(provenance={"data": data | {"task1": "bb"}}))
    same = SweepState.of(new_sweep(provenance={"data": data}))
    one = left.trial("t001")
    assert diff_trials((left, one), (same, same.trial("t001")))["interval"] == [0, 0]
    found = diff_trials((left, one), (right, right.trial("t001")))
    assert found["interval"] is None
    assert found["scores"]["task0"]["interval"] == [0, 0]
    assert found["scores"]["task1"]["interval"] is None
    assert found["provenance"] == {"data.task1": {"left": "aa", "right": "bb"}}


def test_sweeps_differ_in_what_was_asked_and_in_their_best(new_sweep):
    left, right = SweepState.of(new_sweep()), SweepState.of(new_sweep(trials=6))
    right.experiment["training"]["batch_size"] = 32
    found = diff_sweeps(left, right)
    assert found["settings"] == {"training.batch_size": {"left": 8, "right": 32}}
    assert found["left"].endswith(f"/{left.champion}")
    empty = SweepState.of(new_sweep(trials=1, failing=[1]))
    assert not diff_sweeps(left, empty)["measures"]


def test_the_scores_right_after_learning_are_those_of_the_report_that_ended_the_task():
    lines = trial_lines("t001", ["a", "b"], [{"a": [1.0, 0.0]}, {"a": [0.0, 0.0], "b": [1.0]}])
    view = SweepState.of(lines)

    trial = view.trial("t001")

    assert trial.learnt_per_example(["a", "b"]) == {"a": [1.0, 0.0], "b": [1.0]}
    assert trial.per_example == {}, "it has not ended"


def test_what_is_learnt_jointly_is_learnt_at_the_end():
    lines = trial_lines("t001", ["all tasks"], [{"a": [1.0, 0.0], "b": [1.0]}], first=1)
    assert SweepState.of(lines).trial("t001").learnt_per_example(["a", "b"]) == {
        "a": [1.0, 0.0], "b": [1.0],
    }  # fmt: skip


def trial_lines(trial, tasks, per_example, first=0):
    """The end-of-task reports of a trial that has not ended."""
    return [
        {"event": "stage_report", "trial": trial, "report": {
            "task": task, "task_index": first + index, "row": [0.5, 0.5],
            "per_example": per_example[index],
        }}
        for index, task in enumerate(tasks)
    ]  # fmt: skip
