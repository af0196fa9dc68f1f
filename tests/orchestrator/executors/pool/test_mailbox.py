"""The driver's book of a member: jobs, what is said of them, and whom a death is held against."""

import pytest

from orchestrator.executors.messages import Failed, Finished, News, Ready, Reported, Todo
from orchestrator.executors.pool.mailbox import ABSENT_SECONDS, START_SECONDS, Mailbox
from orchestrator.records.stage_report import StageReport
from tests.made_up_jobs import Clock, job

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


def test_a_member_is_told_when_nothing_comes_before_it_has_said_something():
    box = Mailbox()
    assert not box.exchange("m1", [], 4).all_there, "nothing was asked yet"
    for name in "ab":
        box.ask(job(name))
    assert box.exchange("m1", [], 4).all_there
    for name in "ab":  # what the driver does when it hears of this is not known yet
        assert not box.exchange("m1", [(name, Finished())], 4).all_there
    box.release("a")
    box.ask(job("c"))
    assert not box.exchange("m1", [], 4).all_there, "`b` has not been let go of"
    for name in "bc":
        box.release(name)
    box.ask(job("d"))
    assert box.exchange("m1", [], 4).all_there


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
    assert box.begin() is None
    box.reopen()
    assert box.begin() == 0
    assert box.exchange("m2", [], 1).join
    assert box.poll("a", 0) == News()


def test_what_was_in_a_member_that_was_told_to_end_is_nobodys_fault():
    box = Mailbox(max_failures=0)
    box.ask(job("a"))
    box.exchange("m1", [], 1)
    box.close()
    box.reopen()
    assert [j.trial for j in box.exchange("m2", [], 1).join] == ["a"]
    assert box.poll("a", 0).messages == ()


def test_a_member_without_signs_of_life_is_absent_until_it_gives_one():
    clock = Clock()
    box = Mailbox(clock=clock)
    box.sign()
    clock.now = ABSENT_SECONDS
    assert box.present()
    assert not box.poll("a", 0).absent
    clock.now += 1
    assert not box.present()
    assert box.poll("a", 0).absent
    box.sign(silent=ABSENT_SECONDS + 1)  # its desk has not seen it either
    assert not box.present()
    box.sign(silent=3.0)
    assert box.present()
    assert not box.poll("a", 0).absent


def test_a_member_may_take_longer_to_start():
    clock = Clock()
    box = Mailbox(clock=clock)
    box.sign()
    clock.now = ABSENT_SECONDS + 1
    assert not box.present()
    box.reopen()
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

    box.reopen()

    assert box.begin() == 0
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
