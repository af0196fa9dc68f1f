"""Jobs are leases: they live while somebody asks, and survive their member."""

import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Failed, Finished, News, Ready, Reported, Todo
from orchestrator.executors.pool.mailbox import (
    ABSENT_SECONDS,
    LEASE_SECONDS,
    START_SECONDS,
    Mailbox,
)
from orchestrator.executors.pool.slot_trial import slot_trial
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.experiment import Experiment
from orchestrator.system.seals import Maker


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def job(name):
    """A job; a mailbox reads nothing but its name."""
    return types.SimpleNamespace(trial=name)


READY = Ready(1)


def stage(step):
    """What a trial says after so many steps."""
    return Reported(StageReport("mood", 0, step, 4, step / 4, 0.5))


def test_jobs_are_handed_out_in_order_to_as_many_as_are_free():
    box = Mailbox()
    for name in "abc":
        box.ask(job(name))
    assert [j.trial for j in box.exchange("m1", [], 2).join] == ["a", "b"]
    assert box.exchange("m1", [], 0).join == ()
    assert [j.trial for j in box.exchange("m1", [], 1).join] == ["c"]


def test_a_trial_reads_each_message_once_and_a_second_time_if_it_asks_from_the_start():
    box = Mailbox()
    box.ask(job("a"))
    box.exchange("m1", [], 1)
    box.exchange("m1", [("a", stage(1)), ("a", stage(2))], 0)
    assert [m.report.step for m in box.poll("a", 0).messages] == [1, 2]
    assert box.poll("a", 2).messages == ()
    assert [m.report.step for m in box.poll("a", 1).messages] == [2]


def test_a_released_job_is_dropped_by_the_member_and_what_it_still_says_is_lost():
    box = Mailbox()
    for name in "ab":
        box.ask(job(name))
    box.exchange("m1", [], 1)
    box.release("a")
    box.release("b")  # never begun: the member need not know of it
    todo = box.exchange("m1", [("a", stage(1))], 1)
    assert (todo.drop, todo.join) == (("a",), ())
    assert box.poll("a", 0) == News()


def test_a_job_that_nobody_asks_for_is_dropped_and_one_that_is_asked_for_is_kept():
    clock = Clock()
    box = Mailbox(clock=clock)
    for name in "ab":
        box.ask(job(name))
    box.exchange("m1", [], 2)
    clock.now = 0.9 * LEASE_SECONDS
    box.poll("a", 0)
    clock.now = 1.1 * LEASE_SECONDS
    assert box.exchange("m1", [], 0).drop == ("b",)
    # A trial that was merely held up asks again, and its job goes on.
    assert not box.poll("b", 0).known
    box.ask(job("b"))
    assert [j.trial for j in box.exchange("m1", [], 1).join] == ["b"]


def test_a_member_that_starts_anew_is_given_its_jobs_again_but_not_those_that_ended():
    box = Mailbox(max_failures=1)
    for name in "abc":
        box.ask(job(name))
    box.exchange("m1", [], 2)
    box.exchange("m1", [("a", stage(1)), ("b", Finished())], 0)
    # One that was in it at the death comes first, and alone until it has lived through a step.
    assert [j.trial for j in box.exchange("m2", [], 3).join] == ["a"]
    assert box.exchange("m2", [], 2).join == ()
    assert [j.trial for j in box.exchange("m2", [("a", READY)], 2).join] == ["c"]
    # What was said before is still there.
    assert box.poll("a", 0).messages == (stage(1), READY)


def test_a_job_that_was_in_a_member_at_too_many_deaths_has_failed():
    box = Mailbox(max_failures=1)
    box.ask(job("a"))
    box.exchange("m1", [], 1)
    assert box.exchange("m2", [], 1).join
    box.ask(job("b"))
    assert [j.trial for j in box.exchange("m3", [], 2).join] == ["b"]
    [message] = box.poll("a", 0).messages
    assert isinstance(message, Failed)
    assert "died 2 times" in message.reason


def test_a_closed_mailbox_hands_out_nothing_until_it_is_opened_again():
    box = Mailbox()
    box.ask(job("a"))
    box.close()
    assert box.exchange("m1", [], 1) == Todo(close=True)
    box.lose("it was shut")
    assert box.poll("a", 0).gone == "it was shut"
    box.reopen(1)
    # The former member, which has not heard of it, ends; the next one works.
    assert box.begin() is None
    assert box.exchange("m1", [("a", stage(1))], 1) == Todo(close=True)
    assert box.exchange("m2", [], 1, 1).join
    assert box.poll("a", 0).messages == ()
    assert box.poll("a", 0).gone is None


@pytest.mark.parametrize(
    "sign",
    [
        lambda box: box.begin(),
        lambda box: box.beat(),
        lambda box: box.exchange("m1", [], 1),
    ],
)
def test_a_member_without_signs_of_life_is_absent_until_it_gives_one(sign):
    clock = Clock()
    box = Mailbox(clock=clock)
    sign(box)
    clock.now = ABSENT_SECONDS
    assert box.present()
    assert not box.poll("a", 0).absent
    clock.now += 1
    assert not box.present()
    assert box.poll("a", 0).absent
    box.beat(7)  # of another generation
    assert not box.present()
    sign(box)
    assert box.present()
    assert not box.poll("a", 0).absent


def test_a_member_may_take_longer_to_start():
    clock = Clock()
    box = Mailbox(clock=clock)
    box.beat()
    clock.now = ABSENT_SECONDS + 1
    assert not box.present()
    box.reopen(1)
    clock.now += START_SECONDS
    assert box.present()
    clock.now += 1
    assert not box.present()


def test_a_member_that_is_closed_or_lost_is_not_present_and_not_absent():
    clock = Clock()
    closed, lost = Mailbox(clock=clock), Mailbox(clock=clock)
    closed.close()
    lost.lose("gone")
    assert not closed.present()
    assert not lost.present()
    clock.now = START_SECONDS + 1
    assert not closed.poll("a", 0).absent


# --- a trial between several members --------------------------------------------------------------


class Handle:
    """A mailbox as an actor's handle: calls give what `ray.get` turns into their results."""

    def __init__(self, box, broken=None):
        self.box, self.broken = box, broken

    def __getattr__(self, name):
        def remote(*given):
            if self.broken is not None:
                return self.broken
            return getattr(self.box, name)(*given)

        return types.SimpleNamespace(remote=remote)


@pytest.fixture
def two(monkeypatch):
    """Two mailboxes with one clock, which a waiting trial moves, and what the trial reported."""
    import ray
    from ray import tune

    clock, told = Clock(), []

    def get(value):
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(tune, "report", told.append)
    return clock, [Handle(Mailbox(clock=clock)) for _ in range(2)], told


def waiting(monkeypatch, clock, then):
    """Whatever waits lets 10 s pass, in which `then` is done."""

    def sleep(_):
        clock.now += 10
        then()

    monkeypatch.setattr("orchestrator.executors.pool.slot_trial.time.sleep", sleep)


EXPERIMENT = {
    "name": "made-up", "model": {"name": "/nowhere"}, "tasks": ["mood"],
    "method": {"adapter": {"kind": "lora"}}, "training": {},
    "objectives": {"gain": "max"}, "champion": {"maximize": "gain"},
}  # fmt: skip
TRIAL = Job(
    Experiment.model_validate(EXPERIMENT), Maker("sweep", "a", ""), SweepFolder(Path("/nowhere")),
    executor="pool",
).as_config()  # fmt: skip
DONE = Finished()


def test_a_trial_of_a_lost_member_goes_on_in_another_from_what_was_reported(two, monkeypatch):
    clock, handles, told = two
    first, second = (handle.box for handle in handles)
    step = stage(2)

    def then():
        second.exchange("n1", [], 0)  # full for now, and alive
        if clock.now == 10:
            first.exchange("m1", [], 1)
            first.exchange("m1", [("a", step)], 0)
        if clock.now > ABSENT_SECONDS + 30:
            # Resumed there, it repeats what it had reported.
            second.exchange("n1", [], 1)
            second.exchange("n1", [("a", step), ("a", DONE)], 1)

    waiting(monkeypatch, clock, then)
    slot_trial(TRIAL, handles)
    assert [message["kind"] for message in told] == ["stage", "finished"]
    assert clock.now > ABSENT_SECONDS
    # The lost one comes back, and is not asked for what it had.
    assert first.exchange("m1", [], 0).drop == ("a",)
    assert first.exchange("m2", [], 1).join == ()


def test_a_report_that_waits_for_the_driver_keeps_its_lease_and_what_was_said_meanwhile(
    two, monkeypatch
):
    """A slow MLflow server holds the driver up, which holds up every trial that reports."""
    from ray import tune

    clock, handles, told = two
    box = handles[0].box
    step = stage(2)
    monkeypatch.setattr("orchestrator.executors.pool.slot_trial.RENEW_SECONDS", 0.01)
    pause = threading.Event()

    def report(message):
        told.append(message)
        if message is told[0]:
            box.exchange("m1", [("a", DONE)], 0)  # the member goes on meanwhile, and is done
            for _ in range(5):
                clock.now += LEASE_SECONDS - 1
                for _ in range(500):
                    if box._leases["a"].renewed == clock.now:
                        break
                    pause.wait(0.01)
                assert box.exchange("m1", [], 1) == Todo()

    def then():
        if not told:
            box.exchange("m1", [], 1)
            box.exchange("m1", [("a", step)], 0)

    monkeypatch.setattr(tune, "report", report)
    waiting(monkeypatch, clock, then)
    slot_trial(TRIAL, handles)
    assert [message["kind"] for message in told] == ["stage", "finished"]
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_a_trial_waits_for_its_member_where_no_other_is_alive(two, monkeypatch):
    clock, handles, told = two

    def then():
        if clock.now > 2 * START_SECONDS:
            handles[0].box.exchange("m1", [], 1)
            handles[0].box.exchange("m1", [("a", DONE)], 1)

    waiting(monkeypatch, clock, then)
    slot_trial(TRIAL, handles)
    assert [message["kind"] for message in told] == ["finished"]


def test_a_trial_that_waits_goes_where_a_slot_is_free(two, monkeypatch):
    clock, handles, told = two
    full, free = (handle.box for handle in handles)
    for name in ("x", "y"):
        full.ask(job(name))
    full.exchange("m1", [], 2)

    def then():
        full.exchange("m1", [], 0)
        for name in ("x", "y"):
            full.poll(name, 0)
        if [j.trial for j in free.exchange("n1", [], 1).join] == ["a"]:
            free.exchange("n1", [("a", DONE)], 0)

    waiting(monkeypatch, clock, then)
    slot_trial(TRIAL, handles)
    assert [message["kind"] for message in told] == ["finished"]
    assert full.exchange("m1", [], 1).join == ()


def test_room_is_what_nobody_waits_for():
    box = Mailbox()
    assert box.room() == 0  # nothing has been heard yet
    for name in "ab":
        box.ask(job(name))
    assert not box.poll("a", 0).waits  # for a slot: the member is about to start
    box.exchange("m1", [], 1)
    assert box.room() == 0  # b waits
    assert (box.poll("a", 0).waits, box.poll("b", 0).waits) == (False, True)
    box.exchange("m1", [], 3)
    assert box.room() == 2
    box.exchange("m2", [], 4)  # it has died and comes back: both are suspects
    assert not box.poll("b", 0).waits
    box.close()
    assert box.room() == 0


def test_a_mailbox_that_has_died_is_left_and_the_last_one_is_told(two, monkeypatch):
    from ray.exceptions import ActorDiedError

    clock, handles, told = two
    handles[0].broken = ActorDiedError()

    def then():
        handles[1].box.exchange("n1", [], 1)
        handles[1].box.exchange("n1", [("a", DONE)], 1)

    waiting(monkeypatch, clock, then)
    slot_trial(TRIAL, handles)
    assert [message["kind"] for message in told] == ["finished"]
    handles[1].broken = handles[0].broken
    told.clear()
    slot_trial(TRIAL, handles)
    assert [message["kind"] for message in told] == ["lost"]
    assert "member 0: its mailbox has died" in told[0]["reason"]
    assert "member 1: its mailbox has died" in told[0]["reason"]


def test_a_trial_of_the_pool_does_not_load_torch():
    code = (
        "import sys, orchestrator.executors.pool.slot_trial, ray.tune; "
        "import orchestrator.executors.pool.mailbox; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_member_that_dies_again_and_again_before_it_takes_anything_is_given_up():
    box = Mailbox()
    box.ask(job("t1"))

    assert [box.begin() for _ in range(4)] == [0, 0, 0, None]

    gone = box.poll("t1", 0).gone
    assert "died 3 times before it had loaded the base" in gone


def test_starts_of_a_member_that_has_worked_in_between_are_not_counted():
    box = Mailbox()
    for number in range(5):
        assert box.begin() is not None
        box.exchange(f"m{number}", [], 1)


def test_an_opened_mailbox_counts_the_starts_anew():
    box = Mailbox()
    while box.begin() is not None:
        pass

    box.reopen(1)

    assert box.begin(1) == 0
    assert box.poll("t1", 0).gone is None


def test_the_first_reason_for_which_a_member_is_lost_stands():
    box = Mailbox()
    box.lose("the base cannot be read")
    box.lose("it has ended")
    assert box.poll("a", 0).gone == "the base cannot be read"


def test_a_member_that_died_at_work_is_told_so_until_something_is_reported():
    box = Mailbox(max_failures=9)
    box.ask(job("a"))
    box.exchange("m1", [], 1)
    box.exchange("m2", [], 1)
    assert box.begin() == 1
    box.exchange("m3", [], 1)
    assert box.begin() == 2
    box.exchange("m3", [("a", stage(1))], 0)
    assert box.begin() == 0


class Kills:
    """A member of which each job says something at every step, until one of them kills it."""

    def __init__(self, box, lives):
        self.box, self.lives = box, lives
        """Steps that a job lives through after it was joined, by trial; for ever where missing."""
        self.deaths = 0

    def run(self, trials, reports):
        """Serve until all have ended; a job reports at every second step and ends at the last."""
        for name in trials:
            self.box.ask(job(name))
        saved = dict.fromkeys(trials, 0)
        while self.deaths < 50:
            if self._live(saved, reports, f"m{self.deaths}"):
                return
            self.deaths += 1

    def _live(self, saved, reports, incarnation):
        inside, said = {}, []
        while True:
            todo = self.box.exchange(incarnation, said, 4 - len(inside))
            if not inside and not todo.join:
                return True
            said = []
            for one in todo.join:
                inside[one.trial] = 0
                said.append((one.trial, READY))
            for name in list(inside):
                if inside[name] == self.lives.get(name):
                    return False
                inside[name] += 1
                if inside[name] % 2 == 0:
                    saved[name] += 1
                    said.append((name, stage(saved[name])))
                if saved[name] == reports:
                    said.append((name, Finished()))
                    del inside[name]


@pytest.mark.parametrize("lives", [0, 1, 2, 3])
@pytest.mark.parametrize("poison", [["b"], ["a", "c"], ["f"], list("bcdef")])
def test_only_the_jobs_that_kill_a_member_fail(lives, poison):
    box, trials = Mailbox(max_failures=1), list("abcdef")
    member = Kills(box, dict.fromkeys(poison, lives))
    member.run(trials, reports=5)
    ends = {name: box.poll(name, 0).messages[-1] for name in trials}
    assert {name for name, end in ends.items() if isinstance(end, Finished)} >= {*trials} - {
        *poison
    }
    if lives < 2:  # else it reports something at each start, and may get to its end
        assert [name for name, end in ends.items() if isinstance(end, Failed)] == poison
    assert member.deaths <= 4 * len(poison) + 2
