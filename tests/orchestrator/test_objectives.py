import math
import random

import pytest

from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.objectives import (
    NATURAL_DIRECTIONS,
    Candidate,
    Interval,
    ProbeReading,
    choose_champion,
    front,
    gain_interval,
    measures,
)

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
