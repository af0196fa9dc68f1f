"""In what order a sweep on Ray does what it does, without a Ray."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from orchestrator.executors.elastic.room import Room
from orchestrator.executors.ray_leftovers import Leftovers
from orchestrator.sweep import on_ray
from orchestrator.sweep.run_options import SweepOptions
from tests.made_up_sweep import made_up_data


@pytest.fixture
def done(monkeypatch):
    """What was done, in order; Ray and the trials are left out."""
    said = []

    @contextmanager
    def connected(address):
        said.append(("connected", address))
        yield {"CPU": 2.0}
        said.append(("left", address))

    def step(name, answer=None):
        return lambda *_, **__: said.append((name,)) or answer

    monkeypatch.setattr(on_ray, "connected", connected)
    held = SimpleNamespace(room=Room(2, 2, 2.0, 0.0), workers=2.0)
    monkeypatch.setattr(on_ray, "Holding", lambda *_, **__: held)
    for name, answer in {
        "check_driver": None, "check_nodes": None, "trials_at_once": 1, "_run_trials": None,
        "wait_until_clean": Leftovers(("LoneMember 0123",)),
    }.items():  # fmt: skip
        monkeypatch.setattr(on_ray, name, step(name, answer))
    return said


def test_the_verdict_and_its_reading_come_before_what_was_left_behind(
    done, recorder, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    loaded, _ = made_up_data()
    driver = SimpleNamespace(
        experiment=loaded.experiment, observer=recorder, unfinished=["t001"],
        admission=SimpleNamespace(capacity=None, scheduled=None, avoid=tuple),
        state=SimpleNamespace(precision=None),
        journal=SimpleNamespace(folder=tmp_path),
        folder=SimpleNamespace(readings=tmp_path, path=tmp_path),
    )  # fmt: skip
    ending = SimpleNamespace(come=lambda *_: done.append(("verdict and reading",)))
    complaint = on_ray.run_trials_on_ray(driver, SweepOptions(), None, ending, lambda: None)
    order = [step[0] for step in done]
    assert order[order.index("_run_trials") :] == [
        "_run_trials", "verdict and reading", "wait_until_clean", "left",
    ]  # fmt: skip
    assert order.index("check_nodes") < order.index("_run_trials")
    assert (
        "verdict is recorded, but it left something on the cluster: actor LoneMember" in complaint
    )
    assert "not followed without `--address`: RAY_ADDRESS=10.0.0.7:6379" in recorder.notes
