"""What Ray Train has started ends with the process that began it."""

import pickle
import subprocess
import sys

import pytest

from orchestrator.executors.watching.shared_end import SharedEnd

STARTED = """
import os, pickle, sys, time
if sys.argv[2] == "refused":
    def refused(pid):
        raise PermissionError("not permitted")
    os.pidfd_open = refused
pickle.loads(bytes.fromhex(sys.argv[1]))
print("watches", flush=True)
time.sleep(120)
"""


@pytest.fixture
def starter():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    yield process
    process.kill()
    process.wait()


def begun_by(starter, node="", descriptors="given"):
    """A process of a run that another process has begun."""
    shared = SharedEnd()
    shared._pid, shared._node = starter.pid, node
    return subprocess.Popen(
        [sys.executable, "-c", STARTED, pickle.dumps(shared).hex(), descriptors],
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("descriptors", ["given", "refused"])
def test_it_ends_at_once_when_the_process_that_began_it_is_killed(starter, descriptors):
    with begun_by(starter, descriptors=descriptors) as process:
        assert process.stdout.readline() == b"watches\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        starter.kill()
        starter.wait()
        assert process.wait(10) == 1


def test_it_ends_where_that_process_is_gone_already(starter):
    starter.kill()
    starter.wait()
    with begun_by(starter) as process:
        assert process.wait(60) == 1


def test_on_another_node_nothing_is_watched(starter):
    """A process there may have the same id."""
    starter.kill()
    starter.wait()
    with begun_by(starter, node="another") as process:
        assert process.stdout.readline() == b"watches\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.kill()


def test_the_process_that_begins_the_run_does_not_watch_itself():
    assert pickle.loads(pickle.dumps(SharedEnd()))._pid == SharedEnd()._pid
