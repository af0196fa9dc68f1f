"""Who hangs, and who is only slow."""

import pytest

from orchestrator.executors.watching.progress_watch import (
    BUSY_SECONDS,
    STILL_SECONDS,
    ProgressWatch,
)
from orchestrator.system.pulse import Pulse

BUSY, STILL = 1.0, 0.0
"""Shares of a second of CPU time."""


class Course:
    """A worker that is watched twice a second."""

    def __init__(self):
        self.now, self.passes = 0.0, 0
        self.watch = ProgressWatch(clock=lambda: self.now)
        self.idle, self.told = 0.0, []

    def goes(self, seconds, *, share=STILL, silent=False, passes=False):
        """Let it go on so; when it is taken for hanging, seconds from now, or None."""
        for half in range(int(2 * seconds)):
            self.now += 0.5
            self.idle = 0.0 if passes else self.idle + 0.5
            self.passes += passes
            if not silent:
                self.watch.hear(Pulse(self.idle, share * self.idle, self.passes))
            if self.watch.trouble() is not None:
                return (half + 1) / 2
            if (told := self.watch.stall()) is not None:
                self.told.append((self.now, told))
        return None


@pytest.fixture
def course():
    return Course()


@pytest.mark.parametrize("silent", [True, False], ids=["stopped", "stuck"])
def test_a_worker_that_comes_no_further_is_noticed_within_a_minute(course, silent):
    assert course.goes(20, passes=True) is None
    assert STILL_SECONDS <= course.goes(100, silent=silent) <= 60


def test_a_first_pass_may_take_its_time(course):
    assert course.goes(400) is None
    assert course.goes(100, silent=True) is None


def test_a_long_computation_is_no_hang_but_one_that_spins_for_ever_is(course):
    course.goes(5, passes=True)
    assert course.goes(BUSY_SECONDS - 5, share=BUSY) is None
    assert course.goes(60, share=BUSY) is not None


def test_what_may_yet_come_further_is_told_within_a_minute_with_the_arithmetic(course):
    course.goes(100)
    (first,) = course.told
    assert first[0] <= 60
    assert "no pass over the base in its first 45 s" in first[1]
    course.goes(5, passes=True)
    course.goes(100, share=BUSY)
    _, (when, told) = course.told
    assert when <= 105 + 60
    assert "no pass over the base for 45 s" in told
    assert "uses 1.00 cores meanwhile" in told
    assert told.endswith("another takes its place after 300 s")


def test_pauses_that_it_has_made_before_are_not_told_again(course):
    course.goes(5, passes=True)
    for pause in (20, 40, 70, 100, 120):
        course.goes(pause, share=BUSY)
        course.goes(5, passes=True)
    assert len(course.told) == 0


def test_a_worker_that_pauses_long_is_given_longer(course):
    course.goes(5, passes=True)
    assert course.goes(20) is None
    course.goes(5, passes=True)
    assert course.goes(150) is None
    assert course.goes(100) is not None


def test_a_driver_that_was_held_up_itself_accuses_nobody(course):
    course.goes(5, passes=True)
    course.now += 500.0
    assert course.watch.trouble() is None
    assert course.goes(20, passes=True) is None
