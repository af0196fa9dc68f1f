"""A trial between several members: each word is told once, wherever it goes on."""

import pytest

from orchestrator.executors.messages import Finished, Reported
from orchestrator.executors.pool.followed import PATIENCE_SECONDS, Followed
from orchestrator.executors.pool.mailbox import ABSENT_SECONDS, START_SECONDS, Mailbox
from orchestrator.records.stage_report import StageReport
from tests.made_up_jobs import Clock, job

DONE = Finished()
STEP = Reported(StageReport("mood", 0, 2, 4, 0.5, 0.5))


class Two:
    """Two mailboxes with one clock, and a trial that was left with the first."""

    def __init__(self):
        self.clock, self.told, self.lost = Clock(), [], None
        self.boxes = [Mailbox(clock=self.clock) for _ in range(2)]
        self.trial = Followed("a", 0, clock=self.clock)
        self.trial.job = job("a")
        self.boxes[0].ask(self.trial.job)

    def look(self):
        self.lost = self.trial.move(self.boxes)
        self.told += self.trial.told(self.boxes[self.trial.place])

    def go_on(self, then):
        """Look every second, and do `then` between, until there is an end."""
        while self.told[-1:] != [DONE] and self.lost is None:
            assert self.clock.now < 3 * START_SECONDS
            self.look()
            self.clock.now += 1
            then()


@pytest.fixture
def two():
    return Two()


def test_a_trial_of_a_lost_member_goes_on_in_another_from_what_was_reported(two):
    first, second = two.boxes

    def then():
        second.sign()
        second.exchange("n1", [], 0)  # full for now, and alive
        if two.clock.now == 1:
            first.sign()
            first.exchange("m1", [], 1)
            first.exchange("m1", [("a", STEP)], 0)
        if two.clock.now > ABSENT_SECONDS + 30:
            # Resumed there, it repeats what it had reported.
            second.exchange("n1", [], 1)
            second.exchange("n1", [("a", STEP), ("a", DONE)], 1)

    two.go_on(then)
    assert two.told == [STEP, DONE]
    assert two.clock.now > ABSENT_SECONDS
    # The lost one comes back, and is not asked for what it had.
    assert first.exchange("m1", [], 0).drop == ("a",)
    assert first.exchange("m2", [], 1).join == ()


def test_what_was_said_before_a_member_was_lost_is_told_before_the_trial_moves(two):
    first, second = two.boxes
    first.exchange("m1", [], 1)
    first.exchange("m1", [("a", STEP)], 0)
    first.lose("its node is gone")
    two.look()
    assert two.told == [STEP]
    assert two.trial.place == 0
    two.look()
    assert two.trial.place == 1
    assert [j.trial for j in second.exchange("n1", [], 1).join] == ["a"]


def test_a_trial_waits_for_its_member_where_no_other_is_alive(two):
    def then():
        if two.clock.now > 2 * START_SECONDS:
            two.boxes[0].exchange("m1", [], 1)
            two.boxes[0].exchange("m1", [("a", DONE)], 1)

    two.go_on(then)
    assert two.told == [DONE]


def test_a_trial_that_waits_goes_where_a_slot_is_free(two):
    full, free = two.boxes
    for name in ("x", "y"):
        full.ask(job(name))
    full.release("a")
    full.ask(two.trial.job)
    full.exchange("m1", [], 2)
    moved = []

    def then():
        for box in two.boxes:
            box.sign()
        full.exchange("m1", [], 0)
        if [j.trial for j in free.exchange("n1", [], 1).join] == ["a"]:
            moved.append(two.clock.now)
            free.exchange("n1", [("a", DONE)], 0)

    two.go_on(then)
    assert two.told == [DONE]
    assert moved[0] > PATIENCE_SECONDS
    assert full.exchange("m1", [], 1).join == ()


def test_the_last_member_that_is_lost_is_told_with_all_reasons(two):
    two.boxes[0].lose("the base cannot be read")
    two.look()
    assert two.lost is None
    two.boxes[1].lose("it died 3 times")
    two.look()
    assert two.lost == "member 0: the base cannot be read; member 1: it died 3 times"
