"""Objects: whole, and created once; and stores that cannot promise that."""

import threading

import fsspec
import pytest

from orchestrator.system.stores.errors import StoreError
from orchestrator.system.stores.store import Store


@pytest.fixture(params=["memory", "s3"])
def any_store(request):
    """The same tests for the store in memory and for S3."""
    if request.param == "memory":
        return request.getfixturevalue("store")
    return Store(f"{request.getfixturevalue('bucket')}/prefix", patience_s=2.0)


def test_an_object_is_created_once(any_store):
    assert any_store.create("a/b", b"first")
    assert not any_store.create("a/b", b"second")
    assert any_store.get("a/b") == b"first"


def test_who_created_it_and_was_not_told_is_told_so_when_asking_again(any_store):
    assert any_store.create("a", b"mine alone")
    assert any_store.create("a", b"mine alone")


def test_what_is_not_there_is_none_and_nothing(any_store):
    assert any_store.get("gone") is None
    assert any_store.version("gone") is None
    assert any_store.children("gone") == []
    assert any_store.below("gone") == {}
    any_store.remove(["gone"])


def test_children_and_what_is_below(any_store):
    for name in ("x/a", "x/b/c", "x/b/d", "xy"):
        any_store.put(name, b"1")
    assert any_store.children("x") == ["a", "b/"]
    assert any_store.children("") == ["x/", "xy"]
    assert set(any_store.below("x")) == {"x/a", "x/b/c", "x/b/d"}
    assert set(any_store.below("xy")) == set(), "an object is no folder"


def test_another_content_is_another_version(any_store):
    any_store.put("a", b"1")
    before = any_store.version("a")
    assert any_store.below("") == {"a": before}
    any_store.put("a", b"2")
    assert any_store.version("a") != before


def test_a_folder_is_one_object(any_store, tmp_path):
    made = tmp_path / "made"
    (made / "in").mkdir(parents=True)
    (made / "in" / "file").write_bytes(b"\x00" * 1000)
    (made / "top").write_text("top")
    any_store.upload_folder(made, "folder.tar")
    assert list(any_store.below("")) == ["folder.tar"]
    any_store.download_folder("folder.tar", tmp_path / "back")
    assert (tmp_path / "back" / "in" / "file").read_bytes() == b"\x00" * 1000
    assert (tmp_path / "back" / "top").read_text() == "top"


def test_a_tar_that_leads_out_of_its_folder_is_not_unpacked(store, tmp_path):
    import io
    import tarfile

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo("../outside")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    store.put("folder.tar", content.getvalue())
    with pytest.raises(StoreError, match="damaged"):
        store.download_folder("folder.tar", tmp_path / "in" / "back")
    assert not (tmp_path / "in" / "outside").exists()


def test_a_store_with_conditional_writes_passes_and_nothing_stays(any_store):
    any_store.probe()
    assert any_store.below("") == {}


def test_a_store_that_writes_over_what_is_there_is_refused(store, monkeypatch):
    files = fsspec.filesystem("memory")
    plain = type(files).pipe_file

    def careless(self, path, value, mode="overwrite", **options):
        return plain(self, path, value, **options)

    monkeypatch.setattr(type(files), "pipe_file", careless)
    with pytest.raises(StoreError, match=r"no conditional writes.*created again"):
        store.probe()


def test_a_store_that_tells_several_that_they_were_first_is_refused(store, monkeypatch):
    files = fsspec.filesystem("memory")
    plain, together = type(files).pipe_file, threading.Barrier(4)

    def racing(self, path, value, mode="overwrite", **options):
        if path.endswith("at-once") and mode == "create":
            together.wait(5)
            return plain(self, path, value, **options)
        return plain(self, path, value, mode=mode, **options)

    monkeypatch.setattr(type(files), "pipe_file", racing)
    with pytest.raises(StoreError, match="of 4 writers at once"):
        store.probe()


def test_a_store_that_is_away_is_waited_for_then_told(monkeypatch, store):
    files = fsspec.filesystem("memory")
    calls = []

    def away(self, path, **options):
        calls.append(path)
        raise OSError("connection refused")

    monkeypatch.setattr(type(files), "cat_file", away)
    with pytest.raises(StoreError, match=r"connection refused.*the same command goes on"):
        store.get("a")
    assert len(calls) > 2


def test_a_create_whose_answer_was_lost_is_known_by_its_content(monkeypatch, store):
    files = fsspec.filesystem("memory")
    plain = type(files).pipe_file

    def unheard(self, path, value, mode="overwrite", **options):
        plain(self, path, value, mode=mode, **options)
        raise OSError("connection reset")

    monkeypatch.setattr(type(files), "pipe_file", unheard)
    assert store.create("a", b"mine")
    assert not store.create("a", b"theirs")


def test_a_missing_bucket_and_a_missing_package_are_said(bucket):
    with pytest.raises(StoreError, match="Make the bucket first"):
        Store(f"{bucket}-other", patience_s=1.0).create("a", b"1")
    with pytest.raises(StoreError, match="no address that fsspec knows"):
        Store("nothing-like-it://bucket").get("a")
