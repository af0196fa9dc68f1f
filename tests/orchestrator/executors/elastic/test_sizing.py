"""How many members a pool holds, and how sweeps share what there is."""

import random

import pytest

from orchestrator.executors.elastic.room import Room
from orchestrator.executors.elastic.sizing import Claim, PoolSize, fair_shares, members_for
from orchestrator.spec.sections import ResourceSpec


@pytest.mark.parametrize(
    ("trials", "there", "most", "wanted"),
    [
        (100, 0, 4, 4),  # nothing is there: as many nodes as may come
        (20, 0, 8, 3),  # three members hold twenty trials
        (20, 6, 8, 6),  # six places are there anyway
        (3, 6, 8, 3),  # and three trials need no more than three of them
        (1, 6, 8, 1),
        (0, 0, 8, 1),  # something waits where there is nothing
        (100, 2, 2, 2),
    ],
)
def test_a_node_is_asked_for_where_its_slots_would_be_filled(trials, there, most, wanted):
    assert members_for(trials, 8, there=there, most=most) == wanted


def size(trials, there, most, share=lambda most: most, **resources):
    room = Room(there, most, float(there), 0.0)
    return PoolSize(ResourceSpec(**resources), lambda: room, lambda: trials, share)()


def test_members_of_several_workers_are_counted_whole():
    assert size(100, 7, 7, workers=2) == 3
    assert size(100, 0, 9, workers=4, max_workers=9) == 2


def test_a_number_of_members_in_the_file_is_a_bound_and_so_is_one_of_workers():
    assert size(100, 8, 8, members=3) == 3
    assert size(2, 8, 8, members=3) == 2
    assert size(100, 8, 2, members=3, max_workers=2) == 2
    assert size(100, 1, 1, members=3) == 3  # as many as the file says, wherever they find a place


def test_what_others_leave_is_a_bound_too_but_one_member_stays():
    assert size(100, 8, 8, share=lambda most: most // 2) == 4
    assert size(100, 8, 8, share=lambda _: 0) == 1


def test_a_share_follows_the_priorities():
    claims = {"a": Claim(1, 8), "b": Claim(3, 8)}
    assert fair_shares(8, claims) == {"a": 2, "b": 6}


def test_what_one_does_not_want_is_the_others():
    claims = {"a": Claim(1, 1), "b": Claim(1, 9), "c": Claim(1, 9)}
    assert fair_shares(9, claims) == {"a": 1, "b": 4, "c": 4}
    assert fair_shares(100, claims) == {"a": 1, "b": 9, "c": 9}
    assert fair_shares(4, {}) == {}


@pytest.mark.parametrize("seed", range(20))
def test_shares_use_what_there_is_and_nobody_could_get_more_without_anothers_loss(seed):
    draw = random.Random(seed)
    claims = {str(n): Claim(draw.randint(1, 5), draw.randint(0, 9)) for n in range(5)}
    total = draw.randint(1, 30)
    shares = fair_shares(total, claims)
    wanted = sum(claim.wants for claim in claims.values())
    assert sum(shares.values()) == pytest.approx(min(total, wanted))
    level = {
        name: shares[name] / claim.priority
        for name, claim in claims.items()
        if shares[name] < claim.wants - 1e-9
    }
    for name, claim in claims.items():
        assert shares[name] <= claim.wants + 1e-9
        # Whoever has less than wanted has, for its priority, as much as any other.
        assert all(shares[name] / claim.priority <= each + 1e-9 for each in level.values())
