"""Who may write: one, until it gives the lease back or is lost."""

import json
import os

import pytest

from orchestrator.system.stores import lease
from orchestrator.system.stores.errors import HeldError
from orchestrator.system.stores.lease import held_elsewhere, take


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_SECONDS", 0.05)


def seems_elsewhere(store, number=1, **fields):
    """Let the holder of a lease seem to be a process of another machine."""
    name = f"demo/writer/{number:08d}"
    holder = json.loads(store.get(name)) | {"machine": "another", "node": "far"} | fields
    store.put(name, json.dumps(holder).encode())


def test_a_lease_is_given_back_and_taken_again(store):
    first = take(store, "demo/writer", "it")
    first.give_back()
    second = take(store, "demo/writer", "it")
    assert second.mark.startswith("2-")
    second.give_back()
    assert not held_elsewhere(store, "demo/writer")


def test_a_holder_that_lives_is_named(store):
    held = take(store, "demo/writer", "the sweep in s3://b/demo")
    assert held_elsewhere(store, "demo/writer")
    with pytest.raises(HeldError, match=rf"process {os.getpid()} on .*the sweep in s3://b/demo"):
        take(store, "demo/writer", "the sweep in s3://b/demo")
    held.give_back()


def test_a_killed_process_of_this_machine_is_not_waited_for(store):
    take(store, "demo/writer", "it").give_back()
    store.remove(["demo/writer/00000001.ended"])
    holder = json.loads(store.get("demo/writer/00000001")) | {"pid": 2**22 + 1}
    store.put("demo/writer/00000001", json.dumps(holder).encode())
    take(store, "demo/writer", "it", sleep=pytest.fail).give_back()


def test_a_machine_that_is_gone_counts_as_lost_after_a_while(store):
    take(store, "demo/writer", "it").give_back()
    store.remove(["demo/writer/00000001.ended"])
    seems_elsewhere(store)
    waited = []
    take(store, "demo/writer", "it", sleep=waited.append).give_back()
    assert sum(waited) == lease.LOST_SECONDS


def test_a_machine_that_gives_it_back_meanwhile_is_not_waited_for_longer(store):
    held = take(store, "demo/writer", "it")
    seems_elsewhere(store)
    held._given_back.set()
    held._thread.join()
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            held.give_back()

    take(store, "demo/writer", "it", sleep=sleep).give_back()
    assert len(waited) == 3


def test_of_two_that_want_it_one_gets_it(store, monkeypatch):
    create = store.create

    def slower(name, content):
        store.put(name, b'{"node": "quick", "pid": 7}')  # another was there first
        return create(name, content)

    monkeypatch.setattr(store, "create", slower)
    with pytest.raises(HeldError, match="process 7 on quick"):
        take(store, "demo/writer", "it")


def test_a_holder_sees_that_it_was_overtaken(store):
    held = take(store, "demo/writer", "it")
    store.create("demo/writer/00000002", b"{}")
    held._thread.join(timeout=10)
    assert held.overtaken
