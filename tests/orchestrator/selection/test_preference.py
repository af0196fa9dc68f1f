import math

import pytest

from orchestrator.selection.preference import Preference

OBJECTIVES = {"gain": "max", "forgetting": "min"}
TRIALS = {
    "bold": {"gain": 0.30, "forgetting": 0.30, "cost_s": 9.0},
    "middle": {"gain": 0.28, "forgetting": 0.06, "cost_s": 5.0},
    "shy": {"gain": 0.05, "forgetting": 0.00, "cost_s": 1.0},
    "behind": {"gain": 0.04, "forgetting": 0.20, "cost_s": 0.5},
    "unknown": {"gain": 0.40, "forgetting": math.nan, "cost_s": math.nan},
}


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ("gain", "unknown"),
        ("gain,forgetting<=0.1", "middle"),
        ("gain, forgetting<=0.05, gain>=0.01", "shy"),
        ("gain,gain>=0.9", None),
        ("forgetting", "shy"),
        ("cost_s,gain>=0.05", "shy"),
        ("knee", "middle"),
        ("hypervolume", "middle"),
        ("weighted:gain=1,forgetting=-0.01", "bold"),
        ("weighted:gain=1,forgetting=-1", "middle"),
        ("weighted:gain=1,forgetting=-9", "shy"),
    ],
)
def test_each_preference_picks_what_it_says(text, pick):
    assert Preference.parse(text).pick(TRIALS, OBJECTIVES) == pick


def test_of_one_trial_every_preference_picks_that_one():
    alone = {"one": TRIALS["shy"]}
    for text in ("knee", "hypervolume", "gain", "weighted:gain=1"):
        assert Preference.parse(text).pick(alone, OBJECTIVES) == "one"
        assert Preference.parse(text).pick({}, OBJECTIVES) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kneee", "knee"),
        ("gian", "gain"),
        ("gain,forgetting", "no limit"),
        ("gain,forgetting<=low", "no number"),
        ("weighted:gain", "no number"),
        ("weighted:gian=1", "gain"),
        ("", "A preference is"),
    ],
)
def test_what_is_no_preference_is_answered_with_the_forms(text, said):
    with pytest.raises(ValueError, match=said):
        Preference.parse(text)
