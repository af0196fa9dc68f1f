"""Differences allow for seeds and orders where trials were repeated, and say what each leaves."""

import math

import pytest

from orchestrator.report.deciding.decision import decide
from orchestrator.report.deciding.words import decision_lines

REPEATED = {"fresh_seeds": 3, "per": "method.preset"}


def with_other_gains(state, apart):
    """The same sweep, whose repetitions gained by so much more and less than was seen."""
    for finalist in state.finalists:
        for name, more in zip(finalist.repeats, (apart, -apart, 0.0), strict=True):
            trial = state.trial(name)
            trial.measures["gain"] = finalist.mean["gain"] + more
    return state


def test_what_repetitions_do_widens_what_the_examples_leave_open(view):
    state = view(finalists=REPEATED)
    close, far = (decide(with_other_gains(state, apart)) for apart in (0.001, 0.2))
    for narrow, wide in zip(close.comparisons, far.comparisons, strict=True):
        assert narrow.difference == wide.difference
    zero_shot = [
        next(one for one in decision.comparisons if one.other.startswith("zero-shot"))
        for decision in (close, far)
    ]
    widths = [one.interval[1] - one.interval[0] for one in zero_shot]
    assert widths[1] > 1.5 * widths[0]
    # Both finalists differ by the same in each repetition: it does not part them.
    runner_up = [decision.comparisons[0] for decision in (close, far)]
    assert runner_up[0].other.startswith("the runner-up")
    assert runner_up[0].interval == pytest.approx(runner_up[1].interval)


def test_the_parts_of_the_error_are_shown(view):
    state = view(finalists=REPEATED)
    decision = decide(with_other_gains(state, 0.1))
    assert decision.errors.keys() == {"examples", "seeds"}
    assert decision.errors["seeds"] == pytest.approx(
        math.sqrt((4 * 0.1**2 + 4 * 0.02**2) / (4 + 4) / 3)
    )
    words = dict(decision_lines(decision))["The pick"]
    assert any("a standard error of" in line and "seeds 0.0" in line for line in words)
    for finalist in state.finalists:  # as if two had been learnt in one order and one in another
        for name, order in zip(finalist.repeats, ("ab", "ba", "ab"), strict=True):
            state.trial(name).overrides["tasks"] = list(order)
    assert decide(state).errors.keys() == {"examples", "seeds", "orders"}
    for finalist in state.finalists:
        state.trial(finalist.repeats[2]).overrides["tasks"] = ["c"]
    assert decide(state).errors.keys() == {"examples", "runs"}
