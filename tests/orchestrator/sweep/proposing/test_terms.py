"""What a searcher can learn of a trial that a person has asked for."""

import pytest

from orchestrator.sweep.proposing.terms import observed_terms
from tests.made_up_sweep import experiment

KIND, RANK, RATE = "method.adapter.kind", "method.adapter.r", "training.learning_rate"


@pytest.fixture
def own():
    return experiment(
        search={
            "space": {
                KIND: {"choice": ["lora", "curlora"]},
                RANK: {"choice": [4, 8]},
                RATE: {"log_uniform": [1e-4, 1e-2], "when": {KIND: "lora"}},
            },
            "trials": 4,
        },
        training={"learning_rate": 0.001},
    )


@pytest.mark.parametrize(
    ("overrides", "terms"),
    [
        ({KIND: "lora", RANK: 8, RATE: 0.002}, {KIND: "lora", RANK: 8, RATE: 0.002}),
        # What is not said is as in the file.
        ({RANK: 4}, {KIND: "lora", RANK: 4, RATE: 0.001}),
        ({KIND: "curlora", RANK: 4}, {KIND: "curlora", RANK: 4}),
        ({RANK: 4, "training.seed": 7}, {KIND: "lora", RANK: 4, RATE: 0.001}),
        ({RANK: 4, "training.epochs": 1}, {KIND: "lora", RANK: 4, RATE: 0.001}),
    ],
)
def test_a_point_of_the_space_is_one_whatever_else_stays_as_it_was(own, overrides, terms):
    assert own.training.epochs == 1
    assert observed_terms(own, overrides) == (terms, "")


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({RANK: 16}, "outside the search space"),
        ({RANK: 8, RATE: 0.1}, "outside the search space"),
        ({RANK: 8, "training.epochs": 3}, "it sets training.epochs, which the search does not"),
        ({RANK: 8, "training.weight_decay": 0.5}, "training.weight_decay"),
    ],
)
def test_what_lies_elsewhere_says_nothing_of_the_space(own, overrides, why):
    terms, said = observed_terms(own, overrides)
    assert terms is None
    assert why in said


def test_a_sweep_that_searches_nothing_has_no_space():
    assert observed_terms(experiment(), {RANK: 8})[0] is None
