"""Opening a storage: what a command finds in its working folder."""

import uuid

import pytest

from orchestrator.records.journal import Journal
from orchestrator.records.requests.request_files import Request, leave, pending, remove
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system import durable
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.opening import (
    bring_all,
    names_in,
    opened,
    opened_for_writing,
    settle_once,
    settle_storage,
    share,
)
from orchestrator.system.stores.store import Store
from tests.journals import say


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_STORES", str(tmp_path / "stores"))
    return f"memory://{uuid.uuid4().hex}/prefix"


def test_a_folder_is_itself_and_nothing_is_made(tmp_path):
    assert opened(tmp_path / "runs") == tmp_path / "runs"
    assert opened_for_writing(tmp_path / "runs") == (tmp_path / "runs").resolve()
    assert not (tmp_path / "runs").exists()


def test_an_address_is_probed_before_a_sweep_and_not_by_who_only_looks(address, monkeypatch):
    def unfit(store):
        raise StoreError(f"{store.address} has no conditional writes")

    monkeypatch.setattr(Store, "probe", unfit)
    opened(address)
    with pytest.raises(StoreError, match="no conditional writes"):
        opened_for_writing(address)


def test_sweeps_of_a_store_are_found_by_a_machine_that_has_none(address, tmp_path, monkeypatch):
    with Journal(opened_for_writing(address) / "demo") as journal:
        say(journal, "sweep_opened", sweep="demo")
    monkeypatch.setenv("ORCHESTRATOR_STORES", str(tmp_path / "elsewhere"))
    there = opened(address)
    assert [path.parent.name for path in there.glob("*/journal.jsonl")] == ["demo"]


def test_workers_know_of_which_store_a_folder_is(address, tmp_path):
    settle_storage(address)
    settle_storage(str(tmp_path / "runs"))
    assert [path.name for path in (tmp_path / "stores").iterdir()] == [opened(address).name]


def test_of_two_machines_the_first_names_the_storage(mirror, another):
    for one in (mirror, another):
        (one.root / "storage.json").write_text(one.root.name)
        settle_once(one.root / "storage.json")
    assert (another.root / "storage.json").read_text() == mirror.root.name


def test_what_was_written_otherwise_is_shared(mirror, another):
    report = mirror.root / "demo" / "report"
    report.mkdir(parents=True)
    (report / "front.png").write_bytes(b"png")
    share(report)
    another.bring(another.root / "demo" / "report")
    assert (another.root / "demo" / "report" / "front.png").read_bytes() == b"png"


def test_a_request_that_another_machine_has_left_is_found_and_removed_for_all(mirror, another):
    request = Request("stop", "me@far", "t001", reason="enough")
    leave(SweepFolder(another.root / "demo"), request)
    here = SweepFolder(mirror.root / "demo")
    assert pending(here) == []
    bring_all(here.requests)
    assert pending(here) == [request]
    remove(here, request)
    bring_all(here.requests)
    assert pending(here) == []
    assert mirror.store.below("demo/requests") == {}


def test_names_here_and_in_the_store(mirror, another):
    durable.write(another.root / "demo" / "ray" / "t001" / "checkpoint", "1")
    (mirror.root / "demo" / "ray" / "t002").mkdir(parents=True)
    assert names_in(mirror.root / "demo" / "ray") == {"t001", "t002"}
    assert names_in(mirror.root / "gone") == set()
