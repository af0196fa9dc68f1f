import os
import subprocess
import sys
import tempfile
import time
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


def test_a_number_that_is_another_process_by_now_is_no_owner(own_place):
    left = own_place / f"orchestrator-model-{module.machine_mark()}-{os.getpid()}-s12345-x"
    left.mkdir()
    (own_place / f"orchestrator-model-00000000-{os.getpid()}-s12345-x").mkdir()  # of another machine
    assert list(module.abandoned("model")) == [left]


def test_a_clock_that_is_set_makes_nobody_an_orphan(own_place, monkeypatch):
    """psutil adds the time of day at which the machine began, which then is another one."""
    from psutil import _pslinux

    living, kept = another(own_place, "import time; time.sleep(100)")
    began = psutil.boot_time()
    monkeypatch.setattr(_pslinux, "boot_time", lambda: began - 3600.0)
    monkeypatch.setattr(psutil, "boot_time", lambda: began - 3600.0)
    born = psutil.Process(living.pid).create_time()
    assert born == pytest.approx(time.time() - 3600.0, abs=60)
    assert list(module.abandoned()) == []
    remove_abandoned()
    assert kept.is_dir()
    living.kill()
    living.wait()
