"""Journals and the registry in a store: one writer, and a line counts once the store has it."""

import json
from pathlib import Path

import pytest

from orchestrator.records.errors import JournalError, RegistryError
from orchestrator.records.journal import Journal, is_being_written
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.registry_file import open_registry, read_changes
from orchestrator.system.stores import lease
from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.opening import refresh
from orchestrator.system.stores.segments import SPAN
from tests.journals import say


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_SECONDS", 0.05)


def begin(mirror, lines=3):
    with Journal(mirror.root / "demo") as journal:
        say(journal, "sweep_opened", sweep="demo")
        for number in range(lines - 1):
            say(journal, "trial_proposed", trial=f"t{number:03d}")
    return (mirror.root / "demo" / "journal.jsonl").read_bytes()


def test_another_machine_reads_the_same_bytes_and_goes_on(mirror, another):
    content = begin(mirror)
    refresh(another.root)
    there = another.root / "demo"
    assert (there / "journal.jsonl").read_bytes() == content
    with Journal(there) as journal:
        say(journal, "trial_started", trial="t000")
    refresh(mirror.root)
    assert [line["event"] for line in read_journal(mirror.root / "demo")][-1] == "trial_started"
    assert (mirror.root / "demo" / "journal.jsonl").read_bytes().startswith(content)


def test_a_long_journal_is_read_on_and_not_again(mirror, another, monkeypatch):
    begin(mirror, SPAN + 10)
    refresh(another.root)
    with Journal(mirror.root / "demo") as journal:
        say(journal, "trial_started", trial="t000")
    asked = []
    get = another.store.get
    monkeypatch.setattr(another.store, "get", lambda name: (asked.append(name), get(name))[1])
    refresh(another.root)
    assert len(read_journal(another.root / "demo")) == SPAN + 11
    assert not any(name.startswith("demo/journal/000000") for name in asked)


def test_a_second_machine_is_refused_and_harms_nothing(mirror, another):
    with Journal(mirror.root / "demo") as journal:
        say(journal, "sweep_opened", sweep="demo")
        assert is_being_written(another.root / "demo") is False, "nothing was fetched yet"
        with pytest.raises(JournalError, match=r"Another process .* is running the sweep in mem"):
            Journal(another.root / "demo")
        refresh(another.root)
        assert is_being_written(another.root / "demo")
        say(journal, "trial_proposed", trial="t001")
    assert not is_being_written(another.root / "demo")
    refresh(another.root)
    assert len(read_journal(another.root / "demo")) == 2


def test_a_writer_that_was_taken_for_lost_adds_nothing_any_more(mirror, another, monkeypatch):
    slow = Journal(mirror.root / "demo")
    say(slow, "sweep_opened", sweep="demo")
    monkeypatch.setattr(lease, "_is_gone", lambda holder: True)
    with Journal(another.root / "demo") as journal:
        say(journal, "trial_proposed", trial="t001")
        with pytest.raises(JournalError, match="Another process has gone on"):
            say(slow, "trial_proposed", trial="t002")
        say(journal, "trial_started", trial="t001")
    slow.close()
    refresh(mirror.root)
    said = [line["event"] for line in read_journal(mirror.root / "demo")]
    assert said == ["sweep_opened", "trial_proposed", "trial_started"]


def test_a_line_that_the_store_has_not_does_not_count(mirror, monkeypatch):
    content = begin(mirror)
    path = mirror.root / "demo" / "journal.jsonl"
    with Journal(mirror.root / "demo") as journal:

        def refuse(*_):
            raise StoreError("the store is away")

        with monkeypatch.context() as away:
            away.setattr(mirror.store, "create", refuse)
            with pytest.raises(JournalError, match="away"):
                say(journal, "trial_proposed", trial="t009")
        assert path.read_bytes() == content
        say(journal, "trial_proposed", trial="t008")
    assert [line.get("trial") for line in read_journal(path.parent)][-1] == "t008"


def test_a_driver_that_died_between_file_and_store_has_said_nothing(mirror):
    content = begin(mirror)
    path = mirror.root / "demo" / "journal.jsonl"
    path.write_bytes(content + b'{"n":3,"event":"trial_proposed"}\n{"n":4,"ev')
    with Journal(mirror.root / "demo") as journal:
        assert len(journal.lines) == 3
        assert journal.torn == 0
    assert path.read_bytes() == content


def test_a_driver_that_died_after_the_store_had_it_has_said_it(mirror, another):
    content = begin(mirror)
    path = mirror.root / "demo" / "journal.jsonl"
    path.write_bytes(content[: content.rstrip().rfind(b"\n") + 1])
    with Journal(mirror.root / "demo") as journal:
        assert len(journal.lines) == 3
    assert path.read_bytes() == content


def test_a_sweep_that_could_not_begin_leaves_nothing_to_be_listed(mirror, another):
    Journal(mirror.root / "demo").close()
    refresh(another.root)
    assert not (another.root / "demo").exists()
    assert not (mirror.root / "demo").exists()
    with Journal(another.root / "demo") as journal:
        say(journal, "sweep_opened", sweep="demo")


def test_a_missing_line_is_refused_with_its_place(mirror, another):
    begin(mirror, 5)
    mirror.store.remove(["demo/journal/000000/002"])
    with pytest.raises(StoreError, match=r"demo/journal/000000.*lines are missing"):
        refresh(another.root)
    with pytest.raises(JournalError, match="lines are missing"):
        Journal(mirror.root / "demo")


def test_the_registry_is_one_for_all_machines(mirror, another):
    first, second = (Change("renamed", "demo", what="experiment", now=n) for n in ("a", "b"))
    with open_registry(mirror.root) as registry:
        registry.append(first)
    with open_registry(another.root) as registry:
        assert [change.now for change in registry.changes] == ["a"]
        registry.append(second)
    refresh(mirror.root)
    assert [change.now for change in read_changes(mirror.root)] == ["a", "b"]


def test_of_two_changes_at_once_one_is_told_to_look_again(mirror, another):
    with open_registry(mirror.root) as one, open_registry(another.root) as other:
        other.append(Change("renamed", "demo", what="experiment", now="b"))
        with pytest.raises(RegistryError, match="Another machine has changed"):
            one.append(Change("renamed", "demo", what="experiment", now="a"))
    refresh(mirror.root)
    assert [change.now for change in read_changes(mirror.root)] == ["b"]


def test_bytes_are_those_of_a_folder(mirror, tmp_path):
    """Nothing in a journal says where it is kept."""
    written = []
    for folder in (mirror.root / "demo", tmp_path / "runs" / "demo"):
        times = iter(range(10))
        with Journal(folder, clock=lambda times=times: float(next(times))) as journal:
            say(journal, "sweep_opened", sweep="demo")
            say(journal, "trial_proposed", trial="t001", overrides={"a": 1})
        written.append(Path(folder / "journal.jsonl").read_bytes())
    assert written[0] == written[1]
    assert json.loads(written[0].splitlines()[0])["sweep"] == "demo"
