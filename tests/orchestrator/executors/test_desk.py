"""What lies on a desk, and for whom: no word is lost, none is taken for another start's."""

import subprocess
import sys
import threading
import types

import pytest

from orchestrator.executors.desk import Admission, Desk, Heard
from orchestrator.executors.messages import Finished, Ready, Todo

DONE = Finished()
NOW = 0.0


def job(name):
    return types.SimpleNamespace(trial=name)


A, B = job("a"), job("b")


def test_orders_come_with_the_next_exchange_and_once():
    desk = Desk()
    assert desk.exchange("m1", [], 2) == Todo()
    found = desk.swap(Todo((A,), ("x",)), "m1", wait=NOW)
    assert (found.said, found.incarnation, found.free) == ((), "m1", 1)
    assert desk.exchange("m1", [], 2) == Todo((A,), ("x",))
    assert desk.exchange("m1", [], 1) == Todo()
    assert desk.swap(Todo(), "m1", wait=NOW).free == 1


def test_what_is_said_is_found_once_and_in_order():
    desk = Desk()
    desk.exchange("m1", [("a", Ready(1)), ("b", Ready(1))], 0)
    desk.say("a", DONE)
    said = desk.swap(Todo(), "m1", wait=NOW).said
    assert said == (("a", Ready(1)), ("b", Ready(1)), ("a", DONE))
    assert desk.swap(Todo(), "m1", wait=NOW).said == ()


def test_orders_for_another_start_are_left_and_its_last_words_are_told_as_its_own():
    desk = Desk()
    desk.exchange("m1", [], 2)
    desk.swap(Todo((A,)), "m1", wait=NOW)
    desk.say("x", DONE)
    # It dies before it has taken the job up, and comes back.
    assert desk.exchange("m2", [("b", Ready(2))], 2) == Todo()
    first = desk.swap(Todo((B,)), "m1", wait=NOW)
    assert (first.said, first.incarnation, first.free) == ((("x", DONE),), "m1", 0)
    second = desk.swap(Todo((B,)), "m1", wait=NOW)
    assert (second.said, second.incarnation, second.free) == ((("b", Ready(2)),), "m2", 2)
    assert desk.exchange("m2", [], 2) == Todo(), "no order was meant for this one"


def test_the_end_is_for_every_start():
    desk = Desk()
    desk.swap(Todo(close=True), "m1", wait=NOW)
    assert desk.exchange("m2", [], 1) == Todo(close=True)
    assert desk.exchange("m3", [], 1) == Todo(close=True)
    assert desk.begin() is None


def waited(desk, then, known="m1", todo=None):
    """What the driver finds that waits for long, and how it was woken."""
    found = []
    thread = threading.Thread(
        target=lambda: found.append(desk.swap(todo or Todo(), known, wait=30.0))
    )
    thread.start()
    then()
    thread.join(10)
    assert not thread.is_alive(), "nothing woke it"
    return found[0]


@pytest.mark.parametrize(
    ("then", "wanted"),
    [
        (lambda desk: desk.say("a", DONE), Heard((("a", DONE),), "m1", 1)),
        (lambda desk: desk.exchange("m1", [("a", DONE)], 1), Heard((("a", DONE),), "m1", 1)),
        (lambda desk: desk.exchange("m1", [], 2), Heard((), "m1", 2)),
        (lambda desk: desk.exchange("m2", [], 1), Heard((), "m2", 1)),
    ],
)
def test_who_waits_is_woken_by_news(then, wanted):
    desk = Desk(clock=lambda: 0.0)
    desk.exchange("m1", [], 1)
    assert waited(desk, lambda: then(desk)) == wanted


def test_a_worker_begins_with_the_number_of_its_deaths():
    desk = Desk()
    told = []
    worker = threading.Thread(target=lambda: told.append(desk.begin()))
    assert waited(desk, worker.start, known="").begins
    assert not desk.swap(Todo(), "", Admission(2), wait=NOW).begins
    worker.join(10)
    assert told == [2]


def test_silence_is_counted_from_the_last_sign():
    times = iter(range(0, 100, 10))
    desk = Desk(clock=lambda: next(times))
    assert desk.swap(Todo(), "", wait=NOW).silent == 10
    desk.beat()
    assert desk.swap(Todo(), "", wait=NOW).silent == 10


def test_light_processes_stay_light():
    code = (
        "import sys, orchestrator.executors.desk, orchestrator.executors.pool.member_actors; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
