"""The race by itself, with trials whose true worth is known."""

import math

import numpy as np
import pytest

from orchestrator.sweep.deciding.race import Race, RaceRules, pessimistic

RUNGS = [(task, fraction) for task in range(3) for fraction in (0.25, 0.5, 1.0)][:-1]
OBJECTIVES = {"gain": "max", "forgetting": "min"}


class Drawn:
    """Trials that answer questions of three tasks, each with its own chances."""

    def __init__(self, chances, *, examples=60, seed=0, forgetting=None):
        generator = np.random.default_rng(seed)
        hard = {rung: generator.random((3, examples)) for rung in RUNGS}
        self.right = {
            (name, rung): (hard[rung] < chance).astype(float) if examples else np.zeros((3, 0))
            for name, chance in chances.items()
            for rung in RUNGS
        }
        # Trials that are equally good answer other questions right.
        for (name, rung), right in self.right.items():
            order = np.random.default_rng([seed, len(name), *map(ord, name)]).permutation(examples)
            self.right[(name, rung)] = right[:, order]
        self.lost = forgetting or {}

    def parts(self, trial, rung):
        right = self.right[(trial, rung)]
        found = {"gain": {f"task {i}": each / 3 for i, each in enumerate(right)}}
        if trial in self.lost:
            lost = np.full(right.shape[1], self.lost[trial])
            found["forgetting"] = {"task 0": lost + 0.01 * (right[0] - right[0].mean())}
        return found

    def values(self, trial, rung):
        return {
            name: float(sum(each.mean() for each in parts.values()))
            for name, parts in self.parts(trial, rung).items()
        }


def run(drawn, names, rules):
    """All trials, rung after rung; those that were stopped, with why."""
    race, stopped = Race(rules, drawn), {}
    for rung in RUNGS:
        for name in names:
            if name not in stopped and (stop := race.look(name, rung)) is not None:
                stopped[name] = stop
    return stopped


def rules(objectives=None, limits=None, **settings):
    return RaceRules(
        objectives or {"gain": "max"}, limits or {}, "gain", rungs=len(RUNGS), **settings
    )


def test_who_is_clearly_worse_is_stopped_and_the_best_are_not():
    chances = {f"good {i}": 0.8 for i in range(3)} | {f"bad {i}": 0.2 for i in range(6)}
    stopped = run(Drawn(chances), list(chances), rules())
    assert set(stopped) == {name for name in chances if name.startswith("bad")}
    for stop in stopped.values():
        assert stop.rival.startswith("good")
        assert stop.measure == "gain"
        low, high = stop.interval
        assert 0.0 < low < stop.difference < high


def test_of_equal_trials_at_most_the_stated_share_is_stopped():
    names = [f"t{i:03d}" for i in range(16)]
    wrong = sum(
        len(run(Drawn(dict.fromkeys(names, 0.6), seed=seed), names, rules())) for seed in range(25)
    )
    assert wrong <= 0.05 * 25 * len(names)


@pytest.mark.parametrize("order", ["best first", "worst first"])
def test_whoever_comes_last_is_compared_with_all_before(order):
    chances = {f"t{i}": 0.15 + 0.1 * i for i in range(8)}
    names = sorted(chances, reverse=order == "best first")
    race, stopped = Race(rules(), Drawn(chances)), []
    for name in names:  # one whole trial after the other
        for rung in RUNGS:
            if race.look(name, rung) is not None:
                stopped.append(name)
                break
    assert "t7" not in stopped
    assert ("t0" in stopped) == (order == "best first")


def test_one_that_alone_covers_a_region_of_the_front_is_spared():
    chances = {f"good {i}": 0.9 for i in range(5)} | {"steady": 0.3, "bad": 0.3}
    lost = {f"good {i}": 0.4 for i in range(5)} | {"steady": 0.0, "bad": 0.5}
    stopped = run(Drawn(chances, forgetting=lost), list(chances), rules(OBJECTIVES))
    assert set(stopped) == {"bad"}


def test_who_may_still_be_champion_goes_on():
    """Forgetting more than the others is no reason to stop the best in what decides."""
    chances = {f"good {i}": 0.85 for i in range(5)} | {"best": 0.87}
    lost = {f"good {i}": 0.0 for i in range(5)} | {"best": 0.4}
    assert run(Drawn(chances, forgetting=lost), list(chances), rules(OBJECTIVES)) == {}


def test_a_limit_stops_at_once_when_an_interval_is_beyond_it():
    drawn = Drawn({"a": 0.5, "b": 0.5}, forgetting={"a": 0.3, "b": 0.051})
    race = Race(rules(OBJECTIVES, {"forgetting": 0.05}), drawn)
    stop = race.look("a", RUNGS[0])
    assert (stop.rival, stop.measure) == (None, "forgetting")
    assert stop.difference == pytest.approx(0.25)
    assert race.look("b", RUNGS[0]) is None  # beyond it, and perhaps by chance


def test_without_enough_trials_nobody_is_stopped():
    chances = {"good": 0.9, "bad": 0.1}
    assert run(Drawn(chances), list(chances), rules()) == {}


class Holes(Drawn):
    """Some trials of which an objective, or everything, is missing."""

    def values(self, trial, rung):
        if trial == "unknown":
            return None
        found = super().values(trial, rung)
        return found | {"gain": math.nan} if trial == "nan" else found


def test_trials_of_which_something_is_missing_go_on_and_hold_nobody_up():
    chances = {f"good {i}": 0.9 for i in range(3)}
    chances |= {"nan": 0.9, "unknown": 0.9} | {f"bad {i}": 0.1 for i in range(4)}
    stopped = run(Holes(chances), list(chances), rules())
    assert set(stopped) == {f"bad {i}" for i in range(4)}


def test_what_a_searcher_is_told_is_none_too_lucky():
    finished = [({"gain": 0.1 * i}, {"gain": 0.1 * i + 0.05 * i, "drift": i}) for i in range(5)]
    objectives = {"gain": "max", "drift": "min"}
    told = pessimistic(objectives, {"gain": 0.2}, finished)
    assert told == {"gain": pytest.approx(0.2 + 0.05), "drift": pytest.approx(3.0)}
    assert pessimistic(objectives, {"gain": 0.2}, []) is None
