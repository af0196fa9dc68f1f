import math
import random

import numpy as np
import pytest

from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.measures.champion import Candidate, choose_champion
from orchestrator.measures.intervals import Interval, gain_interval, joint_intervals
from orchestrator.measures.objectives import NATURAL_DIRECTIONS, ProbeReading, front, measures

DIRECTIONS = {"gain": "max", "forgetting": "min"}


def test_front_holds_what_nothing_dominates():
    trials = {
        "a": {"gain": 0.3, "forgetting": 0.2},
        "b": {"gain": 0.2, "forgetting": 0.1},
        "c": {"gain": 0.2, "forgetting": 0.2},  # dominated by both
        "d": {"gain": 0.3, "forgetting": 0.2},  # equal to a: neither dominates
        "e": {"gain": math.nan, "forgetting": 0.0},
    }
    assert front(trials, DIRECTIONS) == ["a", "b", "d"]


def test_front_equals_brute_force_on_random_points():
    generator = random.Random(1)
    trials = {
        str(i): {"gain": generator.randrange(5) / 5, "forgetting": generator.randrange(5) / 5}
        for i in range(40)
    }

    def beaten(mine):
        return any(
            o["gain"] >= mine["gain"] and o["forgetting"] <= mine["forgetting"] and o != mine
            for o in trials.values()
        )

    assert front(trials, DIRECTIONS) == [n for n, v in trials.items() if not beaten(v)]


def test_a_clear_difference_has_an_interval_above_zero_and_no_difference_does_not():
    generator = random.Random(0)
    base = [[float(generator.random() < 0.5) for _ in range(200)] for _ in range(2)]
    better = [[max(x, float(generator.random() < 0.5)) for x in task] for task in base]
    clear = gain_interval(better, base)
    assert 0.1 < clear.low < clear.high < 0.4
    same = gain_interval(base, base)
    assert same == Interval(0.0, 0.0)
    assert not same.excludes_zero_from_below


def test_the_interval_is_paired():
    """Pairing removes what both sides share: far narrower than two independent means."""
    generator = random.Random(0)
    base = [[float(generator.random() < 0.5) for _ in range(400)]]
    better = [list(base[0])]
    for index in range(20):
        better[0][index] = 1.0
    interval = gain_interval(better, base)
    assert interval.high - interval.low < 0.05  # two independent means would give about 0.14


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(60):
        generator = random.Random(seed)
        base = [[float(generator.random() < 0.5) for _ in range(100)]]
        better = [[float(generator.random() < 0.65) for _ in range(100)]]
        interval = gain_interval(better, base, resamples=300, seed=seed)
        hits += interval.low <= 0.15 <= interval.high
    assert hits >= 52


def noise(generator, trials, *, examples=100, tasks=2, flipped=0.15, right=0.6, effect=0.0):
    """Trials that turn answers over, as often from wrong to right as back; one has an effect."""
    base, finals = [], [[] for _ in range(trials)]
    for _ in range(tasks):
        was = generator.random(examples) < right
        mended = np.full((trials, 1), flipped / 2 / (1 - right))
        mended[0] += effect / (1 - right)
        drawn = generator.random((trials, examples))
        now = np.where(was, drawn >= flipped / 2 / right, drawn < mended)
        base.append(was.astype(float))
        for final, scores in zip(finals, now.astype(float), strict=True):
            final.append(scores)
    return {str(number): final for number, final in enumerate(finals)}, base


@pytest.mark.parametrize(
    ("trials", "setting"),
    [
        (1, {}),
        (8, {}),
        (40, {}),
        (200, {}),
        # The base is seldom wrong: few examples decide, the same ones for all trials.
        (40, {"right": 0.9, "examples": 50}),
        (40, {"right": 0.5, "examples": 6, "flipped": 1.0}),
    ],
)
def test_with_nothing_but_noise_a_champion_is_named_in_at_most_5_percent(trials, setting):
    generator, sweeps, named = np.random.default_rng(trials), 200, 0
    for number in range(sweeps):
        finals, base = noise(generator, trials, **setting)
        intervals = joint_intervals(finals, base, seed=number, resamples=400)
        named += any(interval.low > 0 for interval in intervals.values())
    assert named <= 0.05 * sweeps


@pytest.mark.parametrize("trials", [1, 8, 40, 200])
def test_a_true_effect_is_found_among_any_number_of_trials(trials):
    generator, sweeps, found = np.random.default_rng(1), 25, 0
    for number in range(sweeps):
        finals, base = noise(generator, trials, effect=0.2)
        found += joint_intervals(finals, base, seed=number, resamples=400)["0"].low > 0
    assert found >= 0.8 * sweeps


def test_trials_that_were_stopped_early_count_among_those_that_were_looked_at():
    finals, base = noise(np.random.default_rng(0), 8)
    alone, among = (joint_intervals(finals, base, others=n) for n in (0, 100))
    assert all(among[name].low < alone[name].low for name in finals)


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("examples", [1, 2])
def test_a_handful_of_examples_is_never_beyond_doubt(examples, tasks):
    right, wrong = [[1.0] * examples] * tasks, [[0.0] * examples] * tasks
    interval = gain_interval(right, wrong)
    assert interval.low <= 0.0
    assert interval.high >= 1.0


def test_examples_that_all_agree_leave_some_doubt():
    interval = gain_interval([[1.0] * 20], [[0.0] * 20])
    assert 0.8 < interval.low < 1.0
    many = {str(number): [[1.0] * 20] for number in range(500)}
    assert joint_intervals(many, [[0.0] * 20])["7"].low > 0.0
    few = {
        name: [[1.0] * 10] for name in many
    }  # of 500 coins one falls ten times alike in every third round
    assert joint_intervals(few, [[0.0] * 10])["7"].low <= 0.0


def test_unequal_examples_are_refused():
    with pytest.raises(ValueError, match="same examples on both sides"):
        gain_interval([[1.0]], [[1.0, 0.0]])


def candidate(name, gain, drift=0.0, low=0.1):
    values = dict.fromkeys(NATURAL_DIRECTIONS, 0.0) | {"gain": gain, "probe_drift": drift}
    return Candidate(name, values, Interval(low, gain + 0.1))


def test_the_largest_gain_that_keeps_the_limit_is_champion():
    verdict = choose_champion(
        [candidate("a", 0.3, 0.2), candidate("b", 0.2, 0.01), candidate("c", 0.1)],
        maximize="gain",
        subject_to={"probe_drift": 0.05},
    )
    assert verdict.champion == "b"
    told = (
        "largest gain (+0.200) among the 2 of 3 that beat the untouched base and keep probe_drift"
    )
    assert f"{told} <= 0.05; its gain of" in verdict.reason


def test_nobody_is_champion_when_no_interval_excludes_zero():
    verdict = choose_champion([candidate("a", 0.3, low=-0.01)], maximize="gain", subject_to={})
    assert verdict.champion is None
    assert "no method beats the untouched base" in verdict.reason


def test_a_champion_has_a_measured_value_of_what_decides():
    unmeasured = candidate("a", 0.3)
    unmeasured = Candidate("a", {**unmeasured.values, "cost_s": math.nan}, Interval(0.1, 0.4))
    verdict = choose_champion([unmeasured], maximize="cost_s", subject_to={})
    assert verdict.champion is None
    assert "none keeps a measured cost_s" in verdict.reason


def test_the_reason_says_how_many_trials_its_interval_allows_for():
    verdict = choose_champion(
        [candidate("a", 0.3), candidate("b", 0.1)], maximize="gain", subject_to={}, compared=12
    )
    assert "[+0.100, +0.400] that allows for the choice among 12 trials" in verdict.reason
    nobody = choose_champion(
        [candidate("a", 0.3, low=-0.01)], maximize="gain", subject_to={}, compared=12
    )
    assert "the choice among 12 trials and does not lie above 0" in nobody.reason


def test_what_was_not_measured_keeps_no_limit():
    verdict = choose_champion(
        [candidate("a", 0.3, math.nan)], maximize="gain", subject_to={"probe_drift": 0.05}
    )
    assert verdict.champion is None
    assert "none keeps probe_drift <= 0.05" in verdict.reason


def test_a_measure_where_less_is_better_is_minimised():
    cheap = candidate("a", 0.2)
    dear = Candidate("b", {**candidate("b", 0.3).values, "cost_s": 9.0}, Interval(0.1, 0.4))
    verdict = choose_champion([dear, cheap], maximize="cost_s", subject_to={})
    assert verdict.champion == "a"


def test_probe_measures():
    matrix = AccuracyMatrix(("a",), ((0.5,), (0.9,)))
    values = measures(
        matrix,
        probes=[
            ProbeReading("language_modelling", 3.0, 3.2),
            ProbeReading("language_modelling", 2.0, 2.1),
            ProbeReading("choice", 0.65, 0.45, chance=0.25),
        ],
        cost_tokens=10.0,
    )
    assert set(values) == set(NATURAL_DIRECTIONS)
    assert values["probe_drift"] == pytest.approx(0.15)
    assert values["probe_accuracy_kept"] == pytest.approx(0.5)
    assert math.isnan(values["cost_s"])


def test_a_probe_that_the_base_only_guesses_has_nothing_to_keep():
    matrix = AccuracyMatrix(("a",), ((0.5,), (0.9,)))
    guessed = ProbeReading("choice", 0.5, 0.7, chance=0.5)
    known = ProbeReading("choice", 0.65, 0.45, chance=0.25)
    both = measures(matrix, probes=[guessed, known])
    assert both["probe_accuracy_kept"] == pytest.approx(0.5)
    assert math.isnan(measures(matrix, probes=[guessed])["probe_accuracy_kept"])
