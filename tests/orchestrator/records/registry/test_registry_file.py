"""The registry's file: whole, numbered, vouched for, one writer at a time."""

import json

import pytest

from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.errors import RegistryError
from orchestrator.records.journal_lines import sealed
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.registry_file import open_registry, read_changes

KEY = AdapterKey("demo", "id", "t001", 1, "mood", "ab")
SAID = [
    Change("decided", "demo", who="driver", adapter=KEY, stands=False, evidence={"gain": 0.5}),
    Change("promoted", "demo", who="me@here", reason='"so"', adapter=KEY, overridden=("no test",)),
    Change("renamed", "demo", what="experiment", now="of mine"),
]


def write(storage, *changes):
    with open_registry(storage, clock=lambda: 7.0) as registry:
        return [registry.append(change) for change in changes]


def test_what_is_written_is_read_again(tmp_path):
    assert read_changes(tmp_path) == []
    written = write(tmp_path, *SAID[:2]) + write(tmp_path, SAID[2])
    assert read_changes(tmp_path) == written
    assert [change.n for change in written] == [0, 1, 2]
    assert written[0].adapter == KEY
    assert not written[0].stands
    assert written[1].stands


def test_a_line_that_was_cut_short_was_never_said(tmp_path):
    write(tmp_path, *SAID)
    file = tmp_path / "registry.jsonl"
    whole = file.read_bytes()
    for cut in (1, 20):
        file.write_bytes(whole[:-cut])
        assert [change.n for change in read_changes(tmp_path)] == [0, 1]
        assert write(tmp_path, SAID[2])[0].n == 2
        assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", [
    lambda lines: [lines[0].replace(b"0.5", b"0.6"), *lines[1:]],
    lambda lines: [lines[0], lines[2]],
    lambda lines: [lines[1], lines[0], lines[2]],
])  # fmt: skip
def test_any_other_damage_is_named(tmp_path, damage):
    write(tmp_path, *SAID)
    file = tmp_path / "registry.jsonl"
    file.write_bytes(b"".join(damage(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(RegistryError, match=r"registry.jsonl: line \d is not as it was written"):
        read_changes(tmp_path)
    with pytest.raises(RegistryError, match="Restore the file"):
        write(tmp_path, SAID[0])


@pytest.mark.parametrize("change", [
    {"adapter": 5}, {"adapter": {**KEY.as_document(), "trial": "../../x"}},
    {"adapter": {**KEY.as_document(), "sweep": ".."}},
    {"adapter": {**KEY.as_document(), "sweep": "/etc"}},
    {"before": {**KEY.as_document(), "learnt": "all"}}, {"before": {}},
    {"name": 5}, {"overridden": 5}, {"overridden": [5]}, {"time": "noon"}, {"stands": 1},
    {"evidence": [1]}, {"evidence": {"measures": [1]}}, {"reason": {}}, {"version": 3},
    {"evidence": {"gain": float("inf")}}, {"adapter": KEY.as_document(), "time": float("nan")},
])  # fmt: skip
def test_what_no_version_writes_is_refused_though_somebody_vouches_for_it(tmp_path, change):
    written, file = write(tmp_path, *SAID), tmp_path / "registry.jsonl"
    lines = [{"n": c.n, "time": c.time, **c.to_line()} for c in written]
    lines[1] |= change
    raw, before = [], b""
    for line in lines:
        before = sealed(json.dumps(line).encode(), before)
        raw.append(before + b"\n")
    file.write_bytes(b"".join(raw))
    with pytest.raises(RegistryError, match=r"registry.jsonl: line 2 says what no version writes"):
        read_changes(tmp_path)
    (tmp_path / "registry.jsonl").write_bytes(b"[" * 5000 + b"\n")
    with pytest.raises(RegistryError, match=r"line 1 is not as it was written"):
        read_changes(tmp_path)


def test_there_is_one_writer_at_a_time(tmp_path):
    with (
        open_registry(tmp_path),
        pytest.raises(RegistryError, match="Another process has been writing"),
        open_registry(tmp_path, wait_s=0.0),
    ):
        pass


def test_events_of_a_later_version_are_passed_over(tmp_path):
    write(tmp_path, SAID[0], Change("crowned", "demo"), SAID[1])  # pyright: ignore
    assert [change.n for change in read_changes(tmp_path)] == [0, 2]
