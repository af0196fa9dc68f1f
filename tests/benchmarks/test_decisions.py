"""The replays of recorded trials, with recordings whose worth is known."""

import math

import numpy as np
import pytest

from benchmarks.decision_curves import Curve, Moment, read, write
from benchmarks.decisions import compare, page, pick, replay, summary

TASKS = ("a", "b", "c")
RUNGS = [(task, fraction) for task in range(3) for fraction in (0.25, 0.5, 1.0)]


def made_up(count=24, examples=80, seed=0):
    """Trials whose gains lie evenly between -0.1 and 0.3, each seen early on the same examples."""
    generator = np.random.default_rng(seed)
    hard = generator.random((3, examples))
    curves = []
    for number in range(count):
        gain = -0.1 + 0.4 * number / (count - 1)
        lost = generator.uniform(0.0, 0.1)
        rungs = {}
        for place, (task, fraction) in enumerate(RUNGS):
            learnt = task + 1
            right = (hard[:learnt] < 0.5 + gain * (0.5 + 0.5 * fraction)).astype(float)
            own = (right.mean(axis=1) - 0.5).sum() / learnt
            noise = generator.normal(0.0, 0.02, examples)
            values = {"gain": float(own), "forgetting": lost, "probe_drift": 0.01}
            parts = {
                "gain": {TASKS[i]: right[i] / learnt for i in range(learnt)},
                "forgetting": {"a": lost + noise - noise.mean()},
            }
            rungs[(task, fraction)] = Moment(float(place + 1), values, parts)
        curves.append(Curve("made up", f"t{number:03d}", {"method.preset": "seq"}, rungs))
    return curves


@pytest.fixture(scope="module")
def curves():
    return made_up()


def test_without_stopping_everything_is_whole_and_paid_for(curves):
    ran = replay(curves, "no stopping", seed=0)
    assert len(ran.whole) == len(curves)
    assert ran.spent == sum(curve.end.cost for curve in curves)
    assert [time for time, _ in ran.whole] == sorted(time for time, _ in ran.whole)


def test_the_race_costs_less_and_keeps_the_pick(curves):
    found = summary(curves, "race", seeds=6)
    assert not any(found["lost"])
    assert np.mean(found["spent"]) < 0.8
    assert all(regret[-1] == 0.0 for regret in found["regret"])
    plain = summary(curves, "no stopping", seeds=6)
    assert np.mean(found["enough"]) < np.mean(plain["enough"])


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_schedulers_of_ray_are_asked(curves, name):
    ran = replay(curves, name, seed=1)
    assert ran.stopped
    assert len(ran.whole) + len(ran.stopped) == len(curves)
    assert ran.spent < sum(curve.end.cost for curve in curves)


def test_recordings_come_back_as_they_were(curves, tmp_path):
    path = tmp_path / "made-up.parquet"
    write(curves, path)
    again = read([path])
    assert [(c.trial, c.overrides, list(c.rungs)) for c in again] == [
        (c.trial, c.overrides, list(c.rungs)) for c in curves
    ]
    for mine, kept in zip(curves, again, strict=True):
        for rung, moment in mine.rungs.items():
            assert kept.rungs[rung].values == pytest.approx(moment.values, rel=1e-6)
            for measure, parts in moment.parts.items():
                for task, each in parts.items():
                    np.testing.assert_allclose(kept.rungs[rung].parts[measure][task], each, 1e-6)


def test_the_page_says_what_came_out(curves):
    table = compare(curves, seeds=2)
    text = page({"made up": table}, {"made up": len(curves)})
    assert "| race |" in text
    best = max(c.end.values["gain"] for c in curves)
    assert pick(curves).end.values["gain"] == best
    assert all(math.isfinite(value) for row in table.values() for value in row["regret"])
