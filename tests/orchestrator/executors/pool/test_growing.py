"""A pool that grows with the cluster and gives back what it has no trials for; without a Ray."""

import functools
import types
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from orchestrator.executors.desk import Desk
from orchestrator.executors.messages import Finished, Paused, Ready
from orchestrator.executors.pool import member_actors, pool
from orchestrator.executors.pool.followed import PATIENCE_SECONDS, Followed
from orchestrator.executors.pool.pool import FIT_SECONDS, IDLE_SECONDS, Pool
from tests.made_up_sweep import experiment


class Actor:
    """A member's actor; it waits for its place until the test gives it one."""

    def __init__(self, number):
        self.name, self.desk, self.killed, self.over = f"m{number}", Desk(), False, False
        self.saves = False
        self.serve = types.SimpleNamespace(remote=lambda *_: ("work", self))
        self.swap = types.SimpleNamespace(remote=lambda *given: ("visit", self, given))
        self.placed, self.inside, self.node = True, [], f"node-of-{self.name}"

    def turn(self, *, ends=()):
        """The worker's side of a turn: it takes what there is, and ends some of what it has."""
        said = [(name, Finished()) for name in ends]
        if self.saves:
            said += [(name, Paused()) for name in self.inside]
            self.inside = []
        self.inside = [name for name in self.inside if name not in ends]
        todo = self.desk.exchange(self.name, said, 2 - len(self.inside))
        self.inside += [job.trial for job in todo.join]
        if todo.join:
            self.desk.exchange(self.name, [(j.trial, Ready(1)) for j in todo.join], 0)
        self.over, self.saves = self.over or todo.close, self.saves or todo.save


class Growing:
    """A pool over made-up actors, and a clock."""

    def __init__(self, monkeypatch):
        self.now, self.wanted = 1000.0, 1
        self.places = types.SimpleNamespace(members=lambda: self.wanted, crowded=True, draining={})
        self.actors, self.notes, self.ended = [], [], []
        monkeypatch.setattr(member_actors, "lone_member", self._start)
        monkeypatch.setattr(ray, "get", self._get)
        monkeypatch.setattr(ray, "kill", lambda actor: setattr(actor, "killed", True))
        monkeypatch.setattr(ray, "wait", lambda futures, **_: (futures, []))
        clock = types.SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(pool, "time", clock)
        followed = functools.partial(Followed, clock=clock.monotonic)
        monkeypatch.setattr(pool, "Followed", followed)
        self.pool = Pool(
            experiment(resources={"slots": 2}), Path("/nowhere"), [], self.places,
            unfinished=lambda: 8, avoid=tuple, note=self.notes.append, fault=print,
        )  # fmt: skip

    def _start(self, *_):
        self.actors.append(Actor(len(self.actors)))
        return self.actors[-1]

    def _get(self, future):
        kind, actor, *given = future
        if kind == "work":
            return None
        return replace(actor.desk.swap(*given[0], wait=0.0), node=actor.node)

    def begin(self, *names):
        for name in names:
            self.pool.assign(name)
            self.pool.ask(types.SimpleNamespace(trial=name))

    def goes(self, seconds, *, ends=()):
        """Let the loop of the driver turn."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.pool.fit()
            alive = [a for a in self.actors if a.placed and not a.killed]
            for actor in alive:
                actor.turn(ends=[name for name in ends if name in actor.inside])
            found = [f for f in self.pool.futures if f[1].placed]
            self.pool.take_in([f for f in found if f[0] == "visit" or f[1].over])
            for name, message in self.pool.news():
                if isinstance(message, Finished):
                    self.pool.release(name)
                    self.ended.append(name)

    @property
    def living(self):
        return [actor.name for actor in self.actors if not actor.killed]


@pytest.fixture
def growing(monkeypatch):
    return Growing(monkeypatch)


def test_a_member_more_starts_when_there_is_room_and_gets_the_next_trials(growing):
    growing.pool.open()
    growing.begin("a", "b")
    growing.goes(3)
    assert growing.living == ["m0"]
    growing.wanted = 2
    growing.goes(FIT_SECONDS + 2)
    assert growing.living == ["m0", "m1"]
    assert "starting 1 more member(s) of the pool" in growing.notes
    growing.begin("c")
    growing.goes(3)
    assert growing.actors[1].inside == ["c"]


def test_trials_do_not_wait_for_a_member_that_waits_for_its_node(growing):
    growing.wanted = 2
    growing.pool.open()
    growing.begin("a", "b")
    growing.actors[1].placed = False
    growing.goes(PATIENCE_SECONDS + 6)
    assert sorted(growing.actors[0].inside) == ["a", "b"]
    assert growing.pool.places == 3  # those of the member that has its place
    assert growing.pool.unplaced == ["member-1"]


def test_where_a_node_is_gone_the_member_that_works_stays(growing):
    growing.wanted = 2
    growing.pool.open()
    growing.begin("a", "b", "c", "d")
    growing.actors[1].placed = False
    growing.goes(3)
    growing.goes(2, ends=["a"])
    growing.wanted, growing.places.crowded = 1, False
    growing.goes(PATIENCE_SECONDS + 6)
    assert sorted(growing.actors[0].inside) == ["b", "c"], "one of those that waited came over"
    growing.goes(PATIENCE_SECONDS + 6, ends=["b", "c"])
    assert growing.living == ["m0"]
    assert growing.actors[0].inside == ["d"]
    assert "member-1 ends: the cluster has no place for it any more" in growing.notes


def test_idle_members_end_once_few_trials_are_left_and_start_again_when_they_are_wanted(growing):
    growing.wanted = 3
    growing.pool.open()
    growing.begin("a", "b", "c")
    growing.goes(4)
    assert all(actor.inside for actor in growing.actors)
    growing.goes(IDLE_SECONDS + 5)
    assert growing.living == ["m0", "m1", "m2"]
    growing.goes(3, ends=["b"])
    growing.wanted = 2
    growing.goes(IDLE_SECONDS - 10)
    assert growing.living == ["m0", "m1", "m2"], "another trial may come"
    growing.goes(15)
    assert growing.living == ["m0", "m2"]
    assert growing.actors[1].over, "it was told, and has ended in order"
    assert "member-1 ends: too few trials are left for it" in growing.notes
    assert len(growing.pool.resources) == 2
    growing.wanted = 3
    growing.goes(FIT_SECONDS + 2)
    assert growing.living == ["m0", "m2", "m3"]
    growing.begin("d")
    growing.goes(3)
    assert growing.actors[3].inside == ["d"]
    assert growing.ended == ["b"]


def test_a_member_that_still_waits_for_a_node_is_given_up_first_and_at_once(growing):
    growing.wanted = 2
    growing.pool.open()
    growing.actors[1].placed = False
    growing.goes(2)
    growing.wanted = 1
    growing.goes(FIT_SECONDS + 1)
    assert growing.living == ["m0"]
    assert growing.pool.unplaced == []


def test_where_a_place_is_anothers_a_member_ends_with_its_last_trial_and_none_is_lost(growing):
    growing.wanted = 2
    growing.pool.open()
    growing.begin("a", "b", "c", "d", "e")
    growing.goes(5)
    loads = {actor.name: len(actor.inside) for actor in growing.actors}
    assert loads == {"m0": 2, "m1": 2}
    growing.wanted = 1
    growing.goes(FIT_SECONDS + 2)
    leaving = growing.actors[1]
    first, second = leaving.inside
    growing.goes(2, ends=[first])
    growing.goes(PATIENCE_SECONDS + 3)
    assert leaving.inside == [second], "it is given no other trial"
    assert not leaving.over
    growing.goes(4, ends=[second])
    growing.goes(3)
    assert growing.living == ["m0"]
    for name in list(growing.actors[0].inside):
        growing.goes(2, ends=[name])
    growing.goes(PATIENCE_SECONDS + 5)
    for name in list(growing.actors[0].inside):
        growing.goes(2, ends=[name])
    assert sorted(growing.ended) == ["a", "b", "c", "d", "e"]


def test_a_member_that_was_leaving_stays_when_there_is_room_again(growing):
    growing.wanted = 2
    growing.pool.open()
    growing.begin("a", "b", "c", "d")
    growing.goes(5)
    growing.wanted = 1
    growing.goes(FIT_SECONDS + 1)
    growing.wanted = 2
    growing.goes(FIT_SECONDS + 1)
    growing.goes(3, ends=growing.actors[1].inside[:1])
    growing.begin("e")
    growing.goes(3)
    assert "e" in growing.actors[1].inside
    assert growing.living == ["m0", "m1"]


def test_what_rests_is_not_asked_when_the_pool_is_opened_again(growing):
    growing.wanted = 2
    growing.pool.open()
    growing.goes(3)
    growing.wanted = 1
    growing.goes(IDLE_SECONDS + 5)
    growing.pool.shut()
    growing.goes(2)
    growing.pool.open()
    assert len(growing.pool.resources) == 1
    growing.begin("a")
    growing.goes(3)
    assert [actor.inside for actor in growing.actors if not actor.killed] == [["a"]]


def test_a_node_that_is_to_be_taken_away_has_its_trials_saved_and_moved(growing):
    growing.wanted = 2
    growing.pool.open()
    growing.begin("a", "b")
    growing.goes(5)
    growing.places.draining = {growing.actors[1].node: 0.0}
    growing.goes(FIT_SECONDS + 10)
    assert "the node of member-1 is to be taken away" in " ".join(growing.notes)
    assert sorted(growing.actors[0].inside) == ["a", "b"]
    growing.goes(4)
    assert growing.living == ["m0", "m2"], "another member takes its place"
    assert "member-1 ends: its node is taken away" in growing.notes
    growing.goes(3, ends=["a", "b"])
    assert sorted(growing.ended) == ["a", "b"]


def test_what_was_saved_waits_for_a_member_where_the_only_one_is_taken_away(growing):
    growing.pool.open()
    growing.begin("a")
    growing.goes(5)
    growing.places.draining = {growing.actors[0].node: 0.0}
    growing.goes(FIT_SECONDS + 10)
    assert growing.living == ["m1"]
    growing.goes(4)
    assert growing.actors[1].inside == ["a"]
