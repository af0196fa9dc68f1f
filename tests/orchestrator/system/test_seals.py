"""Whose work a folder is, whether it is whole, and what becomes of it where it is not."""

import json
import os
from dataclasses import replace

import pytest

from orchestrator.system import durable
from orchestrator.system.seals import (
    UNSEALED,
    Maker,
    content_hash,
    file_hashes,
    flaw,
    move_aside,
    read_seal,
    seal,
)

MAKER = Maker("5e8a41d0", "t001", "settings and data")


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "checkpoint"
    (folder / "adapter").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(range(256)))
    (folder / "trial.json").write_text('{"step": 12}')
    (folder / "adapter" / "adapter.json").write_text("{}")
    seal(folder / "adapter", MAKER)
    seal(folder, MAKER)
    return folder


def test_what_is_as_it_was_sealed_has_no_flaw(sealed):
    assert flaw(sealed, MAKER) is None
    assert flaw(sealed) is None
    assert flaw(sealed / "adapter", MAKER) is None
    document = read_seal(sealed)
    assert {k: document[k] for k in ("sweep", "trial", "made_of")} == {
        "sweep": "5e8a41d0", "trial": "t001", "made_of": "settings and data",
    }  # fmt: skip
    assert set(document["files"]) == {
        "weights.safetensors", "trial.json", "adapter/adapter.json", "adapter/seal.json",
    }  # fmt: skip
    assert document["content"] == content_hash(file_hashes(sealed))


def test_every_bit_of_every_file_counts(sealed):
    for path in sorted(p for p in sealed.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for at in {0, len(whole) // 2, len(whole) - 2}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert flaw(sealed, MAKER) is not None, (path, at)
        for cut in (b"", whole[:-2]):
            path.write_bytes(cut)
            assert flaw(sealed, MAKER) is not None, (path, cut)
        path.unlink()
        assert flaw(sealed, MAKER) is not None, path
        path.write_bytes(whole)
        assert flaw(sealed, MAKER) is None


@pytest.mark.parametrize(
    ("found", "because"),
    [
        ({"sweep": "another"}, "it belongs to trial t001 of the sweep another"),
        ({"trial": "t002"}, "it belongs to trial t002 of the sweep 5e8a41d0"),
        ({"made_of": "another seed"}, "it was made with other settings, data or base"),
    ],
)
def test_the_work_of_another_is_foreign(sealed, found, because):
    seal(sealed, replace(MAKER, **found))
    assert flaw(sealed, MAKER) == because
    assert flaw(sealed) is None, "nobody in particular is asked for"


def test_a_file_that_is_read_where_it_is_there_must_have_been_there(sealed):
    (sealed / "retention.safetensors").write_bytes(b"of another trial")
    assert flaw(sealed, MAKER) == "its file retention.safetensors was added later"
    (sealed / "retention.safetensors").rename(sealed / ".metadata.json")  # Ray's own
    assert flaw(sealed, MAKER) is None


@pytest.mark.parametrize("text", ["", "[]", "5", "{}", '{"files": 3}', "not json"])
def test_a_seal_that_cannot_be_read_vouches_for_nothing(sealed, text):
    (sealed / "seal.json").write_text(text)
    assert flaw(sealed, MAKER).startswith("its seal cannot be read")


def test_the_seals_of_all_writers_are_wanted(tmp_path):
    for part in range(2):
        (tmp_path / "own").mkdir()
        (tmp_path / "own" / f"optimizer-rank{part}.safetensors").write_bytes(b"moments")
        seal(tmp_path / "own", MAKER, part=part, parts=2)
        (tmp_path / "whole").mkdir(exist_ok=True)
        for file in (tmp_path / "own").iterdir():
            file.rename(tmp_path / "whole" / file.name)
        (tmp_path / "own").rmdir()
        wrong = flaw(tmp_path / "whole", MAKER)
        assert (wrong is None) == (part == 1), wrong
    (tmp_path / "whole" / "seal-1.json").unlink()
    assert "seal-1.json" in flaw(tmp_path / "whole", MAKER)


def test_what_is_not_sealed_is_told_from_what_is_damaged(tmp_path):
    assert flaw(tmp_path, MAKER) == UNSEALED


def test_what_is_set_aside_is_kept_under_a_free_name(sealed):
    first = move_aside(sealed)
    sealed.mkdir()
    assert [first.name, move_aside(sealed).name] == [
        "checkpoint.set-aside-1", "checkpoint.set-aside-2",
    ]  # fmt: skip
    assert flaw(first, MAKER) is None, "as it was"


# --- durable files -------------------------------------------------------------------------------


def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_answer(tmp_path, synced):
    durable.write(tmp_path / "file", "text")
    content, name, folder = synced
    assert content.startswith("sync .file.")
    assert [name, folder] == ["name file", f"sync {tmp_path.name}"]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_several_files_reach_the_disk_before_their_names_and_a_folder_is_waited_for_once(
    tmp_path, synced
):
    files = {tmp_path / "one" / name: f"of {name}" for name in "ab"} | {tmp_path / "two" / "c": "c"}
    durable.write_all(files)
    for name in "abc":
        at = synced.index(f"name {name}")
        assert synced[at - 1].startswith(f"sync .{name}.")
    assert synced[-2:] == ["sync one", "sync two"]
    assert {path: path.read_text() for path in files} == files
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["a", "b"]


def test_every_file_of_a_folder_reaches_the_disk_before_its_name(tmp_path, synced):
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    for name in ("a", "inner/b"):
        (source / name).write_text(name)
    durable.copy_folder(source, tmp_path / "copy")
    named = synced.index("name copy")
    assert {"sync a", "sync b", "sync inner"} <= set(synced[:named])
    assert synced[named + 1 :] == [f"sync {tmp_path.name}"]
    assert file_hashes(source) == file_hashes(tmp_path / "copy")


def test_what_several_add_to_one_folder_reaches_the_disk_and_mixes_nothing_up(tmp_path, synced):
    (tmp_path / "new").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).mkdir(mode=0o700)  # as `mkdtemp` makes it
        (tmp_path / name / "inner").mkdir()
        (tmp_path / name / "inner" / name).write_text(name)
        durable.add_to_folder(tmp_path / name, tmp_path / "both")
        assert synced[-3:] == ["sync inner", "sync both", f"sync {tmp_path.name}"]
        assert f"sync {name}" in synced[:-3]
    both = tmp_path / "both"
    assert file_hashes(both) == {
        f"inner/{name}": file_hashes(tmp_path / name)[f"inner/{name}"] for name in ("a", "b")
    }
    assert both.stat().st_mode == (tmp_path / "new").stat().st_mode, "as open as a new folder"
    with pytest.raises(FileNotFoundError):
        durable.add_to_folder(tmp_path / "a", tmp_path / "a storage that is not there" / "both")


def test_a_disk_that_refuses_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    durable.write(tmp_path / "file", json.dumps({"old": 1}))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.write(tmp_path / "file", "new")
    assert json.loads((tmp_path / "file").read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
