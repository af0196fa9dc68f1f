"""Sweeps that share a cluster."""

import math

import pytest

from orchestrator.executors.elastic.sweep_book import (
    CONTENDED_SECONDS,
    LOOK_SECONDS,
    STALE_SECONDS,
    RayStore,
    SweepBook,
)
from orchestrator.spec.sections import ResourceSpec


class Store(dict):
    def put(self, key, value):
        self[key] = value

    def read(self):
        return dict(self)

    def remove(self, key):
        self.pop(key, None)


class Cluster:
    """A cluster of so many places, and the books of its sweeps."""

    def __init__(self, places):
        self.now, self.places, self.grew = 1000.0, places, 0.0
        self.store, self.notes = Store(), []

    def book(self, name, **resources):
        return SweepBook(
            name, ResourceSpec(**resources), lambda: (self.places, self.grew), self.notes.append,
            store=self.store, clock=lambda: self.now,
        )  # fmt: skip

    def goes(self, seconds, *looks):
        """Let time pass; each of `looks` is a book, what it wants, and what it holds."""
        for _ in range(int(seconds / LOOK_SECONDS)):
            self.now += LOOK_SECONDS
            for book, wants, holds in looks:
                book.look(wants, holds)


@pytest.fixture
def cluster():
    return Cluster(4)


def test_one_sweep_alone_keeps_what_it_has_however_much_it_wants(cluster):
    first = cluster.book("first")
    cluster.goes(300, (first, 9, 4))
    assert first.limit == math.inf


def test_a_second_sweep_gets_its_half_and_both_say_so(cluster):
    first, second = cluster.book("first"), cluster.book("second")
    cluster.goes(30, (first, 9, 4), (second, 9, 0))
    assert first.limit == math.inf, "a node may be coming"
    cluster.goes(CONTENDED_SECONDS, (first, 9, 4), (second, 9, 0))
    assert first.limit == 2
    assert (
        "the cluster is shared with second (priority 1): this sweep (priority 1) keeps 2 workers "
        "of 4; what it holds above that is given back when the trials there have ended"
    ) in cluster.notes
    assert second.words == "first (priority 1) holds 4 CPUs"
    # Both have their halves, and would have more: neither takes the other's.
    cluster.goes(300, (first, 9, 2), (second, 9, 2))
    assert (first.limit, second.limit) == (2, 2)


def test_shares_follow_the_priorities_and_end_with_the_other_sweep(cluster):
    first, second = cluster.book("first"), cluster.book("second", priority=3)
    cluster.goes(2 * CONTENDED_SECONDS, (first, 9, 4), (second, 9, 0))
    assert first.limit == 1
    second.close()
    cluster.goes(LOOK_SECONDS, (first, 9, 1))
    assert first.limit == math.inf
    assert cluster.notes[-1] == "the cluster has room for all of its sweeps again"


def test_what_the_other_does_not_want_is_not_given_back(cluster):
    first, second = cluster.book("first"), cluster.book("second")
    cluster.goes(2 * CONTENDED_SECONDS, (first, 9, 4), (second, 1, 0))
    assert first.limit == 3


def test_a_driver_that_was_killed_is_forgotten(cluster):
    first, second = cluster.book("first"), cluster.book("second")
    cluster.goes(2 * CONTENDED_SECONDS, (first, 9, 4), (second, 9, 0))
    cluster.goes(STALE_SECONDS + 2 * LOOK_SECONDS, (first, 9, 2))
    assert first.limit == math.inf
    assert first.others == []
    assert len(cluster.store) == 1


def test_a_cluster_that_grows_has_room_for_both(cluster):
    first, second = cluster.book("first"), cluster.book("second")
    cluster.goes(2 * CONTENDED_SECONDS, (first, 9, 4), (second, 9, 0))
    cluster.places, cluster.grew = 6, cluster.now
    cluster.goes(LOOK_SECONDS, (first, 9, 4), (second, 9, 2))
    assert first.limit == math.inf


def test_sweeps_on_cpus_and_on_gpus_do_not_contend(cluster):
    first, second = cluster.book("first"), cluster.book("second", gpus_per_worker=1)
    cluster.goes(2 * CONTENDED_SECONDS, (first, 9, 4), (second, 9, 0))
    assert first.limit == math.inf


def test_workers_of_another_size_are_counted_by_what_they_have(cluster):
    first = cluster.book("first")
    second = cluster.book("second", cpus_per_worker=2)
    cluster.goes(2 * CONTENDED_SECONDS, (first, 9, 4), (second, 1, 0))
    assert first.limit == 2


@pytest.mark.ray
def test_entries_lie_on_rays_head(ray_cluster):
    store = RayStore()
    store.put("sweep/1", '{"a": "é"}')
    assert store.read()["sweep/1"] == '{"a": "é"}'
    store.remove("sweep/1")
    store.remove("sweep/1")
    assert "sweep/1" not in store.read()
