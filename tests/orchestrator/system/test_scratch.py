import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from orchestrator.system import scratch as module
from orchestrator.system.scratch import remove_abandoned, scratch

MAKE = "from orchestrator.system.scratch import scratch_folder as f; print(f('ray'), flush=True); "


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def another(own_place, then):
    """A process that makes a folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE + then], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(own_place), "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    with process.stdout as said:
        return process, Path(said.readline().strip())


def test_only_what_a_dead_process_has_left_is_removed(own_place):
    living, kept = another(own_place, "import time; time.sleep(100)")
    dead, left = another(own_place, "import os; os.kill(os.getpid(), 9)")
    dead.wait(30)
    foreign = own_place / "orchestrator-ray-notes"
    foreign.mkdir()
    with scratch("model") as own:
        assert left.is_dir()
        remove_abandoned()
        assert not left.exists()
        assert all(folder.is_dir() for folder in (kept, own, foreign))
    assert not own.exists()
    living.kill()
    living.wait()


def test_a_clock_that_is_set_makes_no_process_another_one(own_place, monkeypatch):

    with scratch("model") as own:
        before = psutil.Process().create_time()
        since = psutil.boot_time()
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: since - 3600)
        assert psutil.Process().create_time() < before, "what follows the clock"
        assert list(module.abandoned("model")) == []
        assert own.is_dir()


def test_a_number_that_is_another_process_by_now_is_no_owner(own_place):
    left = own_place / f"orchestrator-model-{module.machine_mark()}-{os.getpid()}-t12345-x"
    left.mkdir()
    (own_place / f"orchestrator-model-00000000-{os.getpid()}-t12345-x").mkdir()
    assert list(module.abandoned("model")) == [left]
