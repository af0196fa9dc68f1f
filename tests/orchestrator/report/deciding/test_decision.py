import math

import pytest

from orchestrator.report.deciding.comparisons import method_of
from orchestrator.report.deciding.decision import decide


def test_the_pick_stands_beside_its_runner_up_and_every_control(view):
    state = view()
    decision = decide(state)
    assert decision.pick == state.champion
    assert decision.method == method_of(state, state.trial(state.champion)) == "er"
    words = [one.other for one in decision.comparisons]
    assert words[0].startswith(f"the runner-up, {state.runner_up} (")
    assert "zero-shot (untouched base)" in words
    assert any(word.startswith("joint training") for word in words)
    for one in decision.comparisons:
        assert one.interval[0] <= one.difference <= one.interval[1]
        assert one.examples == 60
    zero_shot = next(one for one in decision.comparisons if one.other.startswith("zero-shot"))
    assert zero_shot.difference == pytest.approx(decision.measures["gain"])


def test_what_was_given_up_and_what_would_change_it(view):
    state = view()
    for name, trial in state.everything.items():  # cheaper trials are on the front, too
        trial.measures["cost_tokens"] = float(len(name) + ord(name[-1]))
    state.verdict.front[:] = [
        t.name for t in state.searched if state.settings(t)["method.preset"] == "er"
    ]
    pick = state.trial(state.champion)
    cheaper = [
        name for name in state.front
        if state.trial(name).measure("cost_tokens") < pick.measure("cost_tokens")
    ]  # fmt: skip
    decision = decide(state)
    assert {one.trial for one in decision.given_up} <= set(cheaper)
    for one in decision.given_up:
        assert one.better["cost_tokens"] < 0.0
    if cheaper:
        [change] = decision.changes
        assert "A limit of cost_tokens <= " in change


def test_where_nothing_beats_the_base_it_says_so_and_what_came_nearest(view):
    decision = decide(view(dict.fromkeys(("seq", "er", "joint"), 0.0)))
    assert decision.pick is None
    assert decision.reason.startswith("no method beats")
    assert decision.comparisons
    assert any("cannot be told apart" in line for line in decision.open)


def test_another_pick_is_not_said_to_have_been_tested(view):
    state = view()
    other = next(t.name for t in state.searched if t.name != state.champion)
    decision = decide(state, other, "preferred by `knee`")
    assert (decision.pick, decision.reason, decision.test) == (other, "preferred by `knee`", "")
    assert not any(one.other.startswith("the runner-up") for one in decision.comparisons)


def test_the_cost_counts_every_trial(view):
    decision = decide(view())
    assert decision.cost["trials"] == decision.cost["complete"] == 15
    assert decision.cost["stopped"] == decision.cost["failed"] == 0
    assert math.isfinite(decision.cost["seconds"])


def test_methods_of_which_no_trial_was_whole_are_named(view):
    state = view()
    state.experiment["search"]["per"] = "method.preset"
    for trial in state.searched:
        if trial.overrides["method.preset"] == "joint":
            trial.state = "STOPPED"
    decision = decide(state)
    assert "No trial was whole of joint: they were not compared." in decision.open
