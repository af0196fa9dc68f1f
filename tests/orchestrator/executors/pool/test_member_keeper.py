"""The lives of a pool's members, as the driver keeps them; without a Ray."""

import types
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from orchestrator.executors.desk import Desk
from orchestrator.executors.messages import Finished, Lost, Ready
from orchestrator.executors.pool import member_actors
from orchestrator.executors.pool.mailbox import FRUITLESS_STARTS
from orchestrator.executors.pool.pool import Pool
from orchestrator.system.pulse import Pulse
from tests.made_up_sweep import experiment


class Future:
    def __init__(self, value=None):
        self.value = value


class Actor:
    """A member's actor: a desk, at which the test is the worker."""

    def __init__(self, number):
        self.name, self.killed = f"m{number}", False
        self.desk, self.work, self.told = Desk(), Future(), None

        def serve(*told):
            self.told = told
            return self.work

        self.serve = types.SimpleNamespace(remote=serve)
        self.swap = types.SimpleNamespace(remote=lambda *given: Future(given))

    def works(self, *said, free=2):
        return self.desk.exchange(self.name, said, free)


class Members:
    """A pool whose actors are made up, and what the driver does in one turn of its loop."""

    def __init__(self, monkeypatch, workers=1):
        self.actors, self.notes, self.faults = [], [], []
        made_up = experiment(resources={"slots": 2, "members": 1, "workers": workers})
        self.pool = Pool(
            made_up,
            Path("/nowhere"),
            [],
            types.SimpleNamespace(members=lambda: 1, crowded=False, draining={}),
            unfinished=lambda: 2,
            avoid=tuple,
            note=self.notes.append,
            fault=self.faults.append,
        )

        def start(*_):
            self.actors.append(Actor(len(self.actors)))
            return self.actors[-1]

        monkeypatch.setattr(member_actors, "lone_member", start)
        monkeypatch.setattr(member_actors, "member_group", start)
        monkeypatch.setattr(ray, "get", self._get)
        monkeypatch.setattr(ray, "kill", lambda actor: setattr(actor, "killed", True))
        monkeypatch.setattr(ray, "wait", lambda futures, **_: (futures, []))

    def _get(self, future):
        if isinstance(future.value, Exception):
            raise future.value
        if isinstance(future.value, tuple):  # a visit
            if self.actor.killed or isinstance(self.actor.work.value, Exception):
                raise ActorDiedError
            return self.actor.desk.swap(*future.value, wait=0.0)
        return future.value

    @property
    def actor(self):
        return self.actors[-1]

    def visit(self, *, ended=False):
        """Visit the desk; with `ended`, see that its work is over, too."""
        found = [f for f in self.pool.futures if ended or f is not self.actor.work]
        self.pool.take_in(found)
        return list(self.pool.news())

    def dies(self, error=None):
        self.actor.work.value = error or ActorDiedError()
        return self.visit(ended=True)


@pytest.fixture
def members(monkeypatch):
    return Members(monkeypatch)


def asked(pool, name):
    pool.assign(name)
    pool.ask(types.SimpleNamespace(trial=name))


def test_a_member_that_dies_is_started_anew_and_given_its_trials_again(members):
    members.pool.open()
    assert members.actor.told[1] == 0
    asked(members.pool, "a")
    for _ in range(2):
        members.actor.works()
        members.visit()
    assert [job.trial for job in members.actor.works().join] == ["a"]
    members.actor.works(("a", Ready(1)))
    assert members.visit() == [("a", Ready(1))]
    members.dies()
    assert members.actors[0].killed
    (fault,) = members.faults
    assert (fault.what, fault.where, fault.trials) == ("member_died", "member-0", ["a"])
    assert len(members.actors) == 2
    for _ in range(2):
        members.actor.works()
        members.visit()
    assert [job.trial for job in members.actor.works().join] == ["a"]
    members.actor.works(("a", Finished()))
    assert members.visit() == [("a", Finished())]


def test_a_member_that_comes_no_further_is_told_of_and_one_that_hangs_replaced(members):
    members.pool.open()
    asked(members.pool, "a")
    for _ in range(2):
        members.actor.works()
        members.visit()
    before = len(members.notes)
    for _ in range(3):
        members.actor.desk.beat(Pulse(idle=70.0, computed=68.0, passes=9))
        members.visit()
    (told,) = members.notes[before:]
    assert told.startswith("member-0: no pass over the base for 70 s")
    assert members.faults == []
    members.actor.desk.beat(Pulse(idle=71.0, computed=0.5, passes=9))
    members.visit()
    (fault,) = members.faults
    assert (fault.what, fault.where) == ("member_hung", "member-0")
    assert members.actors[0].killed
    assert len(members.actors) == 2


def test_a_member_whose_answer_is_lost_is_ended_and_started_anew(members, monkeypatch):
    """It may have been given a trial of which it knows nothing."""
    members.pool.open()
    asked(members.pool, "a")
    for _ in range(2):
        members.actor.works()
        members.visit()
    with monkeypatch.context() as broken:

        def get(_):
            raise ActorUnavailableError("the network is down", b"0" * 16)

        broken.setattr(ray, "get", get)
        members.visit()
    assert members.actor.killed
    members.dies()
    assert len(members.actors) == 2
    for _ in range(2):
        members.actor.works()
        members.visit()
    assert [job.trial for job in members.actor.works().join] == ["a"]


def test_a_member_that_never_gets_to_work_is_given_up_with_what_it_ended_with(members):
    members.pool.open()
    asked(members.pool, "a")
    for _ in range(FRUITLESS_STARTS):
        assert members.pool.places > 0
        news = members.dies(RayTaskError("serve", "...\nValueError: it is too large", ValueError))
    ((trial, lost),) = news or members.visit()
    assert trial == "a"
    assert isinstance(lost, Lost)
    assert "died 3 times before it had loaded the base" in lost.reason
    assert "it is too large" in lost.reason
    assert len(members.actors) == FRUITLESS_STARTS


def test_a_base_that_cannot_be_read_is_read_once(members):
    members.pool.open()
    asked(members.pool, "a")
    members.actor.work.value = "the base cannot be read"
    news = members.visit(ended=True) + members.visit()
    assert news == [("a", Lost("member 0: the base cannot be read"))] * len(news)
    assert news
    assert len(members.actors) == 1


def test_members_that_were_told_to_end_are_let_go_and_others_take_their_place(members):
    members.pool.open()
    members.actor.works()
    members.visit()
    members.pool.shut()
    assert not members.pool.is_open
    for _ in range(2):  # the first was under way
        members.visit()
    assert members.actor.works().close
    members.actor.work.value, first = None, members.actor
    members.pool.open()
    assert first.killed
    assert len(members.actors) == 2
    assert not members.actor.killed


def test_what_ray_train_cannot_start_is_given_up(monkeypatch):
    members = Members(monkeypatch, workers=2)
    members.pool.open()
    asked(members.pool, "a")
    news = members.dies(RayTaskError("serve", "...\nControllerError: no room", RuntimeError))
    news += members.visit()
    assert {trial for trial, _ in news} == {"a"}
    assert "no room" in news[0][1].reason
    assert len(members.actors) == 1


def test_a_group_is_told_how_often_it_died_whenever_ray_train_starts_it(monkeypatch):
    import threading

    members = Members(monkeypatch, workers=2)
    members.pool.open()
    for expected in (0, 0):
        told = []
        worker = threading.Thread(target=lambda told=told: told.append(members.actor.desk.begin()))
        worker.start()
        while worker.is_alive():
            members.visit()
        assert told == [expected]
        members.actor.works()
        members.visit()
