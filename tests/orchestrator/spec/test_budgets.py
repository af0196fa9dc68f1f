"""Budgets as people write them."""

import pytest

from orchestrator.spec.budgets import compute, duration
from orchestrator.spec.load import load_experiment
from orchestrator.spec.validation import ExperimentError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30min", 1800), ("8h", 28800), ("1h30min", 5400), ("1.5 hours", 5400),
     (" 2 d ", 172800), ("10 minutes", 600), ("1 h 5 s", 3605)],
)  # fmt: skip
def test_durations_are_read(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["0s", "0d", "0h 0min"])
def test_no_time_at_all_is_refused_as_that(text):
    with pytest.raises(ValueError, match=f"above zero, .* got '{text}'"):
        duration(text)


@pytest.mark.parametrize("text", ["30", "min", "", "-3h", "3 fortnights", "1h and a half"])
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(ValueError, match=r"90s, 30min|none of s, min, h and d"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("20 core-hours", ("core", 72000)), ("4 gpu-hours", ("gpu", 14400)),
     ("90 core-minutes", ("core", 5400)), ("1 cpu-hour", ("core", 3600))],
)  # fmt: skip
def test_compute_is_read(text, amount):
    assert compute(text) == amount


@pytest.mark.parametrize("text", ["20", "20 hours", "core-hours", "0 gpu-hours", "3 tpu-hours"])
def test_what_is_no_compute_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="20 core-hours"):
        compute(text)


def test_a_budget_alone_bounds_a_search_that_says_no_trials(experiment_file, search):
    del search["trials"]
    loaded = load_experiment(experiment_file(search={**search, "time_budget": "8h"}))
    assert loaded.experiment.search.open_ended
    assert loaded.experiment.search.budgets == {"time": 28800.0}
    # No disk is asked for as many as the budget could never hold.
    assert loaded.experiment.expected_trials == 8
    both = {**search, "trials": 5, "compute_budget": "2 core-hours"}
    bounded = load_experiment(experiment_file(search=both)).experiment.search
    assert not bounded.open_ended
    assert (bounded.count, bounded.budgets) == (5, {"core": 7200.0})


def test_a_budget_without_a_unit_is_refused_by_its_field(experiment_file, search):
    with pytest.raises(ExperimentError, match=r"search\.time_budget.*30min"):
        load_experiment(experiment_file(search={**search, "time_budget": "30"}))
