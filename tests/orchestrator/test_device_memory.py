"""What a process can still take, and what its work was seen to need."""

import sys

import pytest
import torch

from orchestrator.device_memory import MARGIN, DeviceMemory

MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_of_watched_work_is_what_it_took():
    memory = DeviceMemory("cpu")
    with memory.watched():
        torch.ones(64 * MIB, dtype=torch.uint8)  # freed at once
    assert 60 * MIB < memory.peak < 80 * MIB
    with memory.watched():
        torch.ones(MIB, dtype=torch.uint8)
    assert memory.peak > 60 * MIB  # the largest is remembered


def test_what_is_kept_must_leave_room_for_a_pass(monkeypatch):
    memory = DeviceMemory("cpu")
    memory.peak = 100
    monkeypatch.setattr(memory, "free", lambda: 1000)
    assert memory.holds(int(1000 - 100 * MARGIN))
    assert not memory.holds(int(1000 - 100 * MARGIN) + 1)


def test_free_memory_is_some_of_this_machines():
    import psutil

    assert 0 < DeviceMemory("cpu").free() <= psutil.virtual_memory().total
