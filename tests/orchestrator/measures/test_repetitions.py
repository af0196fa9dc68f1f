"""What seeds and orders do, estimated from repetitions: known values and simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from orchestrator.measures.intervals import RunError, gain_interval, joint_intervals
from orchestrator.measures.repetitions import (
    USUAL_DEVIATION,
    USUAL_FREEDOM,
    Run,
    difference_error,
    differences,
    spread_over,
)


def runs(values, orders="ABABCDCD"):
    return [
        Run(order, seed, value)
        for seed, (order, value) in enumerate(zip(orders, values, strict=False))
    ]


def test_a_balanced_design_gives_the_textbook_estimates():
    group = runs([0.5, 0.1, 0.3, 0.2])  # A: 0.5, 0.3; B: 0.1, 0.2
    found = spread_over([group])
    within = ((0.1**2) * 2 + (0.05**2) * 2) / 2
    between = 2 * ((0.4 - 0.275) ** 2 + (0.15 - 0.275) ** 2) / 1
    assert found.seed_deviation == pytest.approx(math.sqrt(within))
    assert found.order_deviation == pytest.approx(math.sqrt((between - within) / 2))
    prior = USUAL_FREEDOM * USUAL_DEVIATION**2
    assert found.seeds == pytest.approx((2 * within + prior) / (2 + USUAL_FREEDOM))
    error = found.of_mean([run.order for run in group])
    assert error.squared == pytest.approx(found.seeds / 4 + found.orders / 2)


def test_what_cannot_be_told_apart_is_one_number():
    together = spread_over([runs([0.1, 0.3])])  # two orders with a seed each
    seeds_alone = spread_over([runs([0.1, 0.3], "AA")])
    assert together == seeds_alone
    assert together.order_deviation is None
    assert together.seed_deviation == pytest.approx(math.sqrt(0.02))
    assert spread_over([runs([0.1])]) is None
    assert spread_over([runs([0.1, math.nan])]) is None


@pytest.mark.parametrize(("seeds", "orders"), [(0.03, 0.05), (0.05, 0.0)])
def test_simulated_variances_are_found(seeds, orders):
    generator = np.random.default_rng(1)
    found = []
    for _ in range(400):
        groups = []
        for _ in range(3):
            effect = dict(zip("ABC", generator.normal(0, orders, 3), strict=True))
            noise = generator.normal(0, seeds, 5)
            groups.append(
                [
                    Run(o, i, effect[o] + e)
                    for i, (o, e) in enumerate(zip("ABABC", noise, strict=True))
                ]
            )
        spread = spread_over(groups)
        found.append((spread.seed_deviation**2, spread.order_deviation**2))
    mean = np.mean(found, axis=0)
    assert mean[0] == pytest.approx(seeds**2, rel=0.1)
    # Estimates below 0 are taken for 0.
    assert mean[1] == pytest.approx(orders**2, rel=0.12, abs=0.25 * seeds**2)


@pytest.mark.parametrize(
    ("seeds", "orders", "shared"), [(0.02, 0.0, True), (0.01, 0.03, False), (0.04, 0.04, True)]
)
def test_an_interval_covers_the_true_gain_as_often_as_it_says(seeds, orders, shared):
    """Three settings, each run with three seeds in two orders, on the same hundred examples.

    Orders may do the same to all three.
    """
    generator = np.random.default_rng(1)
    hits, count, design = 0, 300, "ABA"
    for number in range(count):
        common = dict(zip("AB", generator.normal(0, orders, 2), strict=True))
        groups = []
        for _ in range(3):
            own = common if shared else dict(zip("AB", generator.normal(0, orders, 2), strict=True))
            noise = generator.normal(0, seeds, len(design))
            groups.append(
                [
                    Run(o, i, 0.1 + own[o] + e)
                    for i, (o, e) in enumerate(zip(design, noise, strict=True))
                ]
            )
        # Examples are crossed with runs: the same ones in each.
        mean = np.mean([run.value for run in groups[0]])
        scores = mean + generator.normal(0, 0.2, 100)
        error = spread_over(groups).of_mean(design)
        made = gain_interval([list(scores)], [[0.0] * 100], runs=error, seed=number, resamples=400)
        hits += made.low <= 0.1 <= made.high
    assert hits / count >= 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / count)


def test_with_no_other_source_the_interval_is_students():
    error = RunError(seeds=0.01, seeds_freedom=6)
    made = gain_interval([[0.5] * 40], [[0.0] * 40], runs=error, resamples=40000)
    # 0.5 on every example: the examples' part is what two more of them would leave.
    examples = 2 * 0.5**2 / (40 * 41)
    half = stats.t.ppf(0.975, 6) * math.sqrt(0.01 + examples)
    assert (made.high - made.low) / 2 == pytest.approx(half, rel=0.03)


def test_what_is_not_repeated_keeps_its_interval():
    scores = {"a": [[0.0, 1.0] * 20], "b": [[1.0, 1.0, 0.0] * 13 + [1.0]]}
    base = [[0.0] * 40]
    assert joint_intervals(scores, base) == joint_intervals(scores, base, runs={"a": RunError()})


def test_what_orders_and_seeds_do_to_both_sides_cancels():
    one, other, third = (runs([g + s for s in (0.3, -0.3, 0.4)]) for g in (0.3, 0.2, 0.25))
    assert [run.value for run in differences(one, other)] == pytest.approx([0.1] * 3)
    paired = difference_error(one, other, [one, other, third])
    alone = difference_error(one, [], [one, other, third])
    assert paired.squared < 0.1 * alone.squared
    unlike = [Run(run.order, run.seed + 10, run.value) for run in other]
    apart = difference_error(one, unlike, [one, unlike])
    assert apart.squared > alone.squared, "other seeds: nothing cancels"
