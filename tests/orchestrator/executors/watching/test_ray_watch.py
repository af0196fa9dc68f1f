"""What is gone is said at once; what is only slow is not gone."""

import socket
import subprocess
import sys
import time

import psutil
import pytest

from orchestrator.executors.watching import ray_watch
from orchestrator.executors.watching.ray_watch import RayGoneError, RayWatch


@pytest.fixture
def raylet(monkeypatch):
    """A process that plays one of Ray's."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    shown = psutil.Process(process.pid)
    monkeypatch.setattr(ray_watch, "ROLES", {shown.name(): "its process on this machine"})
    yield shown
    process.kill()
    process.wait()


def watched(raylet, does):
    with RayWatch([raylet], None).watching():
        does()


def test_the_driver_is_interrupted_as_soon_as_a_process_is_gone(raylet):
    def waits():
        raylet.kill()
        time.sleep(20)

    began = time.monotonic()
    with pytest.raises(RayGoneError, match=f"process {raylet.pid}"):
        watched(raylet, waits)
    assert time.monotonic() - began < 10
    assert not ray_watch.ray_is_gone(), "of another Ray nothing is known"


def test_what_the_driver_meets_first_is_told_as_what_it_is(raylet):
    def fails():
        raylet.kill()
        raylet.wait()
        raise RuntimeError("an error of Ray's")

    with pytest.raises(RayGoneError, match="has ended"):
        watched(raylet, fails)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_other_interrupts_and_errors_stay_what_they_are(raylet, error):
    def fails():
        raise error

    with pytest.raises(error):
        watched(raylet, fails)


def test_a_head_that_answers_now_and_then_is_there(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = RayWatch([], f"127.0.0.1:{server.getsockname()[1]}")
        assert watch.look() == ""
    for _ in range(ray_watch.MISSES - 1):
        assert watch.look() == ""
    assert "does not answer" in watch.look()
