import json
import os
import subprocess
import sys
import tempfile

import psutil
import pytest

from orchestrator.executors.watching.abandoned_ray import end_abandoned, noted
from orchestrator.system.scratch import abandoned, machine_mark


@pytest.fixture
def process():
    made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield psutil.Process(made.pid)
    made.kill()
    made.wait()


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def test_what_a_killed_driver_left_is_ended_by_id_and_its_files_removed(
    process, own_place, tmp_path
):
    session = tmp_path / "session_1"
    session.mkdir()
    with noted([process], session):
        assert end_abandoned() == [], "its driver lives"
        (note,) = own_place.iterdir()
        # As if another driver had written it, which was killed; one id is another's by now.
        left = own_place / f"orchestrator-ray-{machine_mark()}-{os.getpid()}-t1-x"
        left.mkdir()
        document = json.loads((note / "ray.json").read_text())
        document["processes"].append([os.getpid(), "t1"])
        (left / "ray.json").write_text(json.dumps(document))
        (words,) = end_abandoned()
        assert str(process.pid) in words
    assert not process.is_running()
    assert not session.exists()
    assert list(abandoned()) == []
    assert list(own_place.iterdir()) == []
