"""What a process can still take, and what its work was seen to need."""

import sys

import pytest
import torch

from orchestrator.engines.device_memory import MARGIN, DeviceMemory

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


def test_larger_passes_than_were_seen_are_expected_to_need_more(monkeypatch):
    memory = DeviceMemory("cpu")
    memory.peak = 100
    monkeypatch.setattr(memory, "free", lambda: 1000)
    fits = int(1000 - 3 * 100 * MARGIN)
    assert memory.holds(fits + 1, tokens=1200)  # of which size the peak was is not known
    memory.tokens = 400
    assert memory.holds(fits, tokens=1200)
    assert not memory.holds(fits + 1, tokens=1200)
    assert memory.holds(int(1000 - 100 * MARGIN), tokens=80)  # smaller ones: as was seen
    memory.forget()
    assert memory.tokens == 0


def test_what_a_pass_took_can_be_forgotten():
    memory = DeviceMemory("cpu")
    assert not memory.seen
    with memory.watched():
        torch.ones(8 * MIB, dtype=torch.uint8)
    assert memory.seen
    memory.forget()
    assert (memory.seen, memory.peak) == (False, 0)


def test_free_memory_is_some_of_this_machines():
    import psutil

    assert 0 < DeviceMemory("cpu").free() <= psutil.virtual_memory().total
