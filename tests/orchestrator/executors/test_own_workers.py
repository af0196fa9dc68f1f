"""Trials with workers of their own, as the driver follows them."""

import types

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from orchestrator.executors import train
from orchestrator.executors.desk import Heard
from orchestrator.executors.messages import Finished, Ready
from orchestrator.executors.own_workers import OwnWorkers
from orchestrator.system.pulse import Pulse


class Future:
    """What a call will give; an exception is raised."""

    def __init__(self, value=None):
        self.value = value


class Actor:
    """An actor of a trial: the test says what its calls give, and when."""

    def __init__(self):
        self.work, self.desk, self.killed, self.pulse = Future(), [], False, None

        def swap():
            said, self.desk = tuple(("t001", message) for message in self.desk), []
            return Future(Heard(said, pulse=self.pulse))

        self.run = types.SimpleNamespace(remote=lambda *_: self.work)
        self.swap = types.SimpleNamespace(remote=swap)


@pytest.fixture
def actors(monkeypatch):
    """The actors that were started."""
    made = []

    def start():
        made.append(Actor())
        return made[-1]

    def get(future):
        if isinstance(future.value, Exception):
            raise future.value
        return future.value

    monkeypatch.setattr(train, "train_trial", start)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda actor: setattr(actor, "killed", True))
    return made


def begun(max_failures=1, faults=None, notes=None):
    told = [[] if each is None else each for each in (faults, notes)]
    own = OwnWorkers([], *(each.append for each in told))
    resources = types.SimpleNamespace(max_failures=max_failures)
    own.begin(types.SimpleNamespace(
        trial="t001", experiment=types.SimpleNamespace(resources=resources)
    ))  # fmt: skip
    return own


def test_a_trial_is_heard_to_its_last_word_and_its_process_ended(actors):
    own = begun()
    (actor,) = actors
    actor.desk.append(Ready(1))
    own.take_in(own.futures[:1])  # the visit that found nothing; the next finds what was said
    actor.desk.append(Ready(2))
    actor.work.value = (Finished(),)
    own.take_in([actor.work])
    assert own.over() == {}, "not before all was heard"
    assert list(own.news()) == [("t001", each) for each in (Ready(1), Ready(2), Finished())]
    assert own.over() == {"t001": False}
    assert actor.killed
    assert own.futures == []


@pytest.mark.parametrize("max_failures", [0, 2])
def test_a_process_that_dies_is_started_again_as_often_as_is_allowed(actors, max_failures):
    faults = []
    own = begun(max_failures, faults)
    for number in range(max_failures + 1):
        assert own.over() == {}
        assert len(actors) == number + 1
        actors[-1].work.value = ActorDiedError()
        own.take_in([actors[-1].work])
    assert len(actors) == max_failures + 1
    assert own.over() == {"t001": True}
    assert all(actor.killed for actor in actors)
    assert [fault.what for fault in faults] == ["trial_died"] * max_failures


def test_workers_that_come_no_further_are_told_of_and_those_that_hang_replaced(actors):
    faults, notes = [], []
    own = begun(1, faults, notes)
    actors[0].pulse = Pulse(idle=70.0, computed=68.0, passes=9)
    own.take_in(own.futures[:1])  # the visit before it had a pulse
    own.take_in(own.futures[:1])
    (told,) = notes
    assert told.startswith("t001: no pass over the base for 70 s")
    assert (faults, len(actors)) == ([], 1)
    actors[0].pulse = Pulse(idle=71.0, computed=0.5, passes=9)
    own.take_in(own.futures[:1])
    own.take_in(own.futures[:1])
    (fault,) = faults
    assert (fault.what, fault.where, fault.trials) == ("trial_hung", "t001", ("t001",))
    assert actors[0].killed
    assert len(actors) == 2


def test_what_a_process_raises_is_the_reason_of_its_trial(actors):
    own = begun(max_failures=0)
    text = "traceback\nOSError: [Errno 28] No space left on device"
    actors[0].work.value = RayTaskError("run", text, OSError(28, "No space left on device"))
    own.take_in([actors[0].work])
    ((trial, failed),) = own.news()
    assert (trial, own.over()) == ("t001", {"t001": True})
    assert failed.reason.endswith("No space left on device")
    assert "traceback" in failed.details


def test_a_trial_that_is_not_wanted_any_more_is_ended(actors):
    own = begun()
    own.end("t002")
    own.end("t001")
    assert actors[0].killed
    assert own.over() == {}
    assert own.futures == []
