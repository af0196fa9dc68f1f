"""The race as a scheduler of Ray Tune: asked as Tune asks, and in a run of Tune's own."""

import logging
import signal
import types

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

import orchestrator
from orchestrator.executors.messages import Reported
from orchestrator.records.stage_report import StageReport
from orchestrator.sweep.tune_scheduler import TuneScheduler

SCORES = {"best": 0.95, "good": 0.93, "fair": 0.92, "bad": 0.3}


def scores(share, count=60):
    """So many right answers, the same ones first."""
    return [float(place < round(share * count)) for place in range(count)]


def report(scheduler, name, step, **result):
    """Whether a trial goes on after a report."""
    told = {"training_iteration": step, **result}
    decided = scheduler.on_trial_result(None, types.SimpleNamespace(trial_id=name), told)
    return decided == TrialScheduler.CONTINUE


def go_on(scheduler, share=None, step=1, names=SCORES):
    """Which trials go on, one after another."""
    each = {name: scores(SCORES[name] if share is None else share) for name in names}
    return {
        name
        for name, own in each.items()
        if report(scheduler, name, step, acc=float(np.mean(own)), per_example={"acc": own})
    }


def test_who_is_behind_beyond_doubt_is_stopped_and_it_is_said_why():
    scheduler = orchestrator.RaceScheduler({"acc": "max"}, [1, 2])
    assert go_on(scheduler) == {"best", "good", "fair"}, "fair cannot be told from the best"
    stop = scheduler.stopped["bad"]
    assert (stop.rival, stop.measure) == ("good", "acc") or stop.rival == "best"
    assert stop.interval[0] <= stop.difference <= stop.interval[1]
    assert "1 stopped" in scheduler.debug_string()


def test_a_trial_is_asked_once_at_each_rung_that_it_has_come_to():
    scheduler = orchestrator.RaceScheduler({"acc": "max"}, [2, 5])
    assert go_on(scheduler, step=1) == {*SCORES}, "before the first rung nobody is compared"
    assert "bad" not in go_on(scheduler, step=3)
    own = scores(0.0)
    assert report(scheduler, "good", 4, acc=0.0, per_example={"acc": own}), "it was there"
    assert not report(scheduler, "worse", 4, acc=0.0, per_example={"acc": own})


def test_a_trial_that_alone_is_best_in_another_objective_goes_on():
    scheduler = orchestrator.RaceScheduler({"acc": "max", "kept": "max"}, [1])
    for name, share in SCORES.items():
        kept = scores(1.0 - share)
        assert report(
            scheduler, name, 1, acc=share, kept=1.0 - share,
            per_example={"acc": scores(share), "kept": kept},
        )  # fmt: skip


def test_a_limit_stops_at_once_and_only_beyond_doubt():
    scheduler = orchestrator.RaceScheduler(
        {"acc": "max", "drift": "min"}, [1], limits={"drift": 0.2}
    )
    each = {"acc": scores(0.9)}
    assert report(
        scheduler, "a", 1, acc=0.9, drift=0.25, per_example={**each, "drift": scores(0.25)}
    )
    assert not report(
        scheduler, "b", 1, acc=0.9, drift=0.6, per_example={**each, "drift": scores(0.6)}
    )
    assert scheduler.stopped["b"].rival is None


def test_what_cannot_be_compared_is_told_and_stops_nobody(caplog):
    scheduler = orchestrator.RaceScheduler({"acc": "max"}, [1])
    go_on(scheduler, names=["best", "good", "fair"])
    with caplog.at_level(logging.WARNING):
        assert report(scheduler, "short", 1, acc=0.0, per_example={"acc": [0.0] * 7})
    assert "on the same examples" in caplog.text
    assert report(scheduler, "none", 1, acc=0.0)
    assert report(scheduler, "nan", 1, acc=float("nan"), per_example={"acc": scores(0.1)})
    assert report(scheduler, "words", 1, acc="high", per_example="no")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (({}, [1]), "name objectives"),
        (({"acc": "up"}, [1]), "`max` or `min`"),
        (({"acc": "max"}, [2, 1]), "rising"),
        (({"acc": "max"}, []), "rising"),
    ],
)
def test_wrong_arguments_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        orchestrator.RaceScheduler(*arguments)
    with pytest.raises(ValueError, match="between 0 and 1"):
        orchestrator.RaceScheduler({"acc": "max"}, [1], keep=1.5)


def test_a_sweep_that_is_given_one_tells_it_of_gain_by_example():
    scheduler = orchestrator.RaceScheduler({"gain": "max"}, [1])
    asked = TuneScheduler(scheduler)
    for name, share in SCORES.items():
        asked.begins(types.SimpleNamespace(trial=name, row_0=(0.5, 0.25)))
        each = {"mood": tuple(scores(share)), "being": tuple(scores(0.5))}
        told = StageReport("mood", 0, 4, 4, 1.0, share, row=(share, 0.5), per_example=each)
        assert asked.stops(name, Reported(told)) == (name == "bad")
    # On the mean over both tasks, of which one differs.
    stop = scheduler.stopped["bad"]
    assert stop.difference == pytest.approx((SCORES[stop.rival] - SCORES["bad"]) / 2, abs=0.01)


@pytest.fixture
def own_signals():
    """Tune keeps Ctrl-C to itself, also when it has ended."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.ray
def test_tune_stops_a_trial_of_its_own_by_it(ray_cluster, tmp_path, own_signals):
    from ray import tune

    def learn(config):
        for _ in range(3):
            own = [float(place < config["share"] * 60) for place in range(60)]
            tune.report({"acc": sum(own) / 60, "per_example": {"acc": own}})

    scheduler = orchestrator.RaceScheduler({"acc": "max"}, [1, 2])
    tuner = tune.Tuner(
        learn,
        param_space={"share": tune.grid_search([0.95, 0.93, 0.92, 0.3])},
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    found = tuner.fit()
    assert not found.errors
    steps = {result.config["share"]: result.metrics["training_iteration"] for result in found}
    assert steps == {0.95: 3, 0.93: 3, 0.92: 3, 0.3: 1}
