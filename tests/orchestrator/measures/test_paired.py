import math

import numpy as np
import pytest

from orchestrator.measures.paired import paired_difference


def test_the_difference_is_that_of_sums_of_means():
    mine = {"a": [1.0, 0.0, 1.0, 1.0], "b": [0.5, 0.5]}
    other = {"a": [0.0, 0.0, 1.0, 0.0], "b": [0.5, 0.0]}
    found = paired_difference(mine, other)
    assert found.value == pytest.approx(0.5 + 0.25)
    assert found.telling == 3
    assert found.freedom == 3 + 1
    turned = paired_difference(other, mine)
    assert (turned.value, turned.error) == (-found.value, found.error)


def test_what_is_common_to_both_cancels():
    generator = np.random.default_rng(0)
    hard = generator.normal(size=200)
    mine, other = {"a": hard + 0.01}, {"a": hard}
    low, high = paired_difference(mine, other).bounds(0.01)
    assert 0.0 < low < 0.01 < high < 0.02


def test_few_examples_that_agree_are_no_certainty():
    found = paired_difference({"a": [1.0] * 4}, {"a": [0.0] * 4})
    assert found.bounds(0.025)[0] <= 0.0
    assert paired_difference({"a": [1.0] * 40}, {"a": [0.0] * 40}).bounds(0.001)[0] > 0.5


@pytest.mark.parametrize("examples", [12, 100])
def test_equal_trials_are_told_apart_as_seldom_as_stated(examples):
    generator = np.random.default_rng(examples)
    tail, apart, runs = 0.05, 0, 2000
    for _ in range(runs):
        mine, other = (
            {task: generator.integers(0, 2, examples).astype(float) for task in "ab"}
            for _ in range(2)
        )
        apart += paired_difference(mine, other).bounds(tail)[0] > 0.0
    assert apart / runs <= tail + 3 * math.sqrt(tail * (1 - tail) / runs)
    assert apart > 0


def test_other_examples_are_refused():
    with pytest.raises(ValueError, match="same examples"):
        paired_difference({"a": [1.0]}, {"a": [1.0, 0.0]})
    with pytest.raises(ValueError, match="same examples"):
        paired_difference({}, {})


def test_what_is_not_finite_is_told_apart_from_nothing():
    found = paired_difference({"a": [1.0, math.nan]}, {"a": [0.0, 0.0]})
    low, high = found.bounds(0.025)
    assert not low > 0.0
    assert not high < 0.0
