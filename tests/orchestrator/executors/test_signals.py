import os
import signal

import pytest

from orchestrator.executors.signals import held_back, sigterm_as_interrupt


def interrupted(*signals):
    """What is done of some work into which these signals come, one after each piece."""
    done = []

    def work():
        with sigterm_as_interrupt(), held_back():
            for place, number in enumerate([*signals, None]):
                done.append(place)
                if number is not None:
                    os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        work()
    return done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_what_is_not_to_be_broken(number):
    assert interrupted(number) == [0, 1]


def test_a_second_signal_does_not_wait():
    assert interrupted(signal.SIGTERM, signal.SIGTERM) == [0, 1]


def test_without_a_signal_nothing_happens():
    before = signal.getsignal(signal.SIGINT)
    with held_back():
        pass
    assert signal.getsignal(signal.SIGINT) is before
