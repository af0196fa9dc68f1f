"""What is written for good in a working folder is in the store first, and comes back elsewhere."""

import pytest

from orchestrator.system import durable
from orchestrator.system.seals import Maker, flaw, move_aside, seal
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.mirror import mirror_of, settle


def make_folder(place, content="one"):
    """A folder that appears as a whole."""
    with durable.half(place) as fresh:
        (fresh / "in").mkdir(parents=True)
        (fresh / "in" / "file").write_text(content)
        durable.put(fresh, place)


def test_a_folder_of_its_own_truth_has_no_mirror(tmp_path, mirror):
    assert mirror_of(tmp_path / "runs" / "demo") is None
    durable.write(tmp_path / "runs" / "a", "1")
    assert mirror.store.below("") == {}


def test_files_and_folders_are_objects_and_come_back(mirror, another):
    durable.write(mirror.root / "demo" / "report" / "index.html", "page")
    make_folder(mirror.root / "demo" / "trials" / "t1" / "adapter")
    assert set(mirror.store.below("")) == {
        "demo/report/index.html", "demo/trials/t1/adapter.tar",
    }  # fmt: skip
    another.bring_sweep(another.root / "demo")
    assert (another.root / "demo" / "report" / "index.html").read_text() == "page"
    assert (another.root / "demo" / "trials" / "t1" / "adapter" / "in" / "file").is_file()


def test_what_another_machine_has_replaced_or_removed_is_seen(mirror, another):
    place = mirror.root / "demo" / "ray" / "t1" / "checkpoint"
    there = another.root / place.relative_to(mirror.root)
    make_folder(place, "one")
    another.bring_folder(there)
    durable.remove(there)
    make_folder(there, "two")
    mirror.bring_folder(place)
    assert (place / "in" / "file").read_text() == "two"
    durable.remove(there)
    mirror.bring_sweep(mirror.root / "demo")
    assert not place.exists()


def test_what_is_here_already_is_not_fetched_again(mirror, monkeypatch):
    place = mirror.root / "demo" / "adapter"
    make_folder(place)
    monkeypatch.setattr(mirror.store, "download", lambda *_: pytest.fail("it is here"))
    mirror.bring_folder(place)
    mirror.bring_sweep(mirror.root / "demo")


def test_one_part_of_a_folder_comes_after_the_other(mirror, another, tmp_path):
    for rank in range(2):
        part = tmp_path / f"part{rank}"
        part.mkdir()
        (part / f"optimizer-{rank}").write_text(str(rank))
        (mirror.root / "demo" / "ray").mkdir(parents=True, exist_ok=True)
        durable.add_to_folder(part, mirror.root / "demo" / "ray" / "checkpoint_1")
    another.bring_sweep(another.root / "demo")
    found = another.root / "demo" / "ray" / "checkpoint_1"
    assert sorted(path.name for path in found.iterdir()) == ["optimizer-0", "optimizer-1"]
    durable.remove(mirror.root / "demo" / "ray" / "checkpoint_1")
    assert mirror.store.below("") == {}


def test_what_is_set_aside_is_so_in_the_store(mirror):
    place = mirror.root / "demo" / "adapter"
    make_folder(place)
    aside = move_aside(place)
    assert list(mirror.store.below("")) == [f"demo/{aside.name}.tar"]


def test_a_store_that_refuses_leaves_the_folder_as_it_was(mirror, monkeypatch):
    durable.write(mirror.root / "demo" / "card.json", "old")

    def refuse(*_):
        raise StoreError("the store is away")

    monkeypatch.setattr(mirror.store, "upload", refuse)
    with pytest.raises(OSError, match="away"):
        durable.write(mirror.root / "demo" / "card.json", "new")
    assert (mirror.root / "demo" / "card.json").read_text() == "old"


@pytest.mark.parametrize(
    "name", ["mlflow.db", "cache/index.db-wal", ".hidden", "demo/journal.jsonl"]
)
def test_what_stays_here(mirror, name):
    durable.write(mirror.root / name, "1")
    assert mirror.store.below("") == {}


def test_a_sealed_folder_is_sealed_after_the_way(mirror, another):
    place = mirror.root / "demo" / "adapter"
    maker = Maker("sweep", "t1", "made of")
    with durable.half(place) as fresh:
        fresh.mkdir(parents=True)
        (fresh / "weights").write_bytes(b"\x01" * 100)
        seal(fresh, maker)
        durable.put(fresh, place)
    there = another.root / "demo" / "adapter"
    another.bring_folder(there)
    assert flaw(there, maker) is None


def test_names_that_lead_out_of_the_folder_are_not_used(mirror, tmp_path):
    with pytest.raises(StoreError, match="leads out"):
        mirror._fetch({"demo/../../../outside": "1"})


def test_a_working_folder_that_does_not_say_of_what_is_refused(mirror):
    lost = mirror.root.parent / "lost"
    lost.mkdir()
    with pytest.raises(StoreError, match=r"store\.json"):
        mirror_of(lost / "demo")
    settle(lost, "memory://x")
    assert mirror_of(lost / "demo").address == "memory://x"
