import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.measures.objectives import dominates, front
from orchestrator.measures.pareto import best_first, covered, front_ranks, hypervolume

OBJECTIVES = {"gain": "max", "forgetting": "min", "probe_drift": "min"}
coordinates = st.integers(0, 4).map(float)
trials = st.lists(
    st.fixed_dictionaries(dict.fromkeys(OBJECTIVES, coordinates)), min_size=1, max_size=9
)
some_objectives = st.sampled_from(
    [dict(list(OBJECTIVES.items())[:count]) for count in (1, 2, 3)],
)


def ranks_by_peeling(points, objectives):
    """Fronts taken off one after the other, straight from the definition."""
    left, ranks, rank = dict(enumerate(points)), {}, 0
    while left:
        outermost = [
            place
            for place, mine in left.items()
            if not any(dominates(other, mine, objectives) for other in left.values())
        ]
        ranks |= dict.fromkeys(outermost, rank)
        left = {place: mine for place, mine in left.items() if place not in ranks}
        rank += 1
    return [ranks[place] for place in range(len(points))]


@given(trials, some_objectives)
def test_ranks_are_those_of_fronts_taken_off_one_by_one(points, objectives):
    ranks = front_ranks(points, objectives)
    assert ranks == ranks_by_peeling(points, objectives)
    on_front = front({str(i): p for i, p in enumerate(points)}, objectives)
    assert [str(i) for i, rank in enumerate(ranks) if rank == 0] == on_front


@given(trials, some_objectives)
def test_hypervolume_is_the_volume_of_the_unit_boxes_below(points, objectives):
    reference = {"gain": 0.0, "forgetting": 4.0, "probe_drift": 4.0}
    sizes = [[p[n] if d == "max" else 4.0 - p[n] for n, d in objectives.items()] for p in points]
    boxes = itertools.product(range(4), repeat=len(objectives))
    covered = sum(
        any(all(corner < size for corner, size in zip(box, mine, strict=True)) for mine in sizes)
        for box in boxes
    )
    assert hypervolume(points, objectives, reference) == pytest.approx(covered)


def test_what_is_not_finite_adds_nothing():
    points = [{"gain": math.nan, "forgetting": 0.0}, {"gain": 0.5, "forgetting": 0.0}]
    objectives = {"gain": "max", "forgetting": "min"}
    volume = hypervolume(points, objectives, {"gain": 0.0, "forgetting": 0.5})
    assert volume == pytest.approx(0.25)
    assert hypervolume([], objectives, {"gain": 0.0, "forgetting": 0.5}) == 0.0
    assert front_ranks([], objectives) == best_first([], objectives) == []


@given(trials, some_objectives)
def test_the_best_come_first_by_front(points, objectives):
    order = best_first(points, objectives)
    assert sorted(order) == list(range(len(points)))
    ranks = front_ranks(points, objectives)
    assert [ranks[place] for place in order] == sorted(ranks)


def test_within_a_front_who_covers_more_alone_comes_first():
    spread = [(1.0, 0.0), (0.98, 0.01), (0.5, 0.5), (0.02, 0.99), (0.0, 1.0)]
    points = [{"gain": gain, "forgetting": -kept} for gain, kept in spread]
    order = best_first(points, {"gain": "max", "forgetting": "min"})
    assert order[0] == 2
    generator = np.random.default_rng(0)
    turned = generator.permutation(5)
    again = best_first([points[i] for i in turned], {"gain": "max", "forgetting": "min"})
    assert turned[again[0]] == 2


@given(trials, some_objectives)
def test_the_share_that_is_covered_knows_no_units_and_is_whole_with_the_ideal(points, objectives):
    share = covered(points, objectives)
    assert (share is None) == (len({tuple(p[n] for n in objectives) for p in points}) < 2)
    if share is None:
        return
    assert 0.0 < share <= 1.0 + 1e-12
    scaled = [{n: 7.0 * p[n] - 3.0 for n in p} for p in points]
    assert covered(scaled, objectives) == pytest.approx(share)
    ideal = {n: (max if d == "max" else min)(p[n] for p in points) for n, d in objectives.items()}
    assert covered([*points, ideal], objectives) == pytest.approx(1.0)


def test_the_share_that_is_covered_of_two_trials():
    objectives = {"gain": "max", "forgetting": "min"}
    points = [{"gain": 1.0, "forgetting": 10.0}, {"gain": 0.0, "forgetting": 0.0}]
    # A box of 1.1 x 11, of which each trial covers a strip of a tenth of the range.
    assert covered(points, objectives) == pytest.approx((1.1 * 1 + 0.1 * 11 - 0.1) / (1.1 * 11))
    assert covered(points[:1], objectives) is None
    assert covered([points[0]] * 3, objectives) is None
