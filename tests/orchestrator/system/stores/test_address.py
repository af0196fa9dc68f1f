"""What `storage` may be, and the folder that stands for an address."""

from pathlib import Path

import pytest

from orchestrator.system.stores.address import (
    is_address,
    plain_address,
    working_folder,
    wrong_storage,
)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("  ", "is empty"), ("memory://runs", "outlive the process"),
        ("https://host/runs", "outlive the process"), ("s3:///runs", "names no bucket"),
        ("file://host/runs", "names no whole path"),
    ],
)  # fmt: skip
def test_what_cannot_hold_sweeps_is_refused(storage, said):
    assert said in wrong_storage(storage)


@pytest.mark.parametrize(
    "storage",
    [
        "s3://me:secret@bucket/runs", "s3://bucket/runs?key=secret", "s3://me:se/cret@bucket/runs",
        "memory://me:secret@x", "http://me:secret@host/runs", "file://me:secret@host/runs",
    ],
)  # fmt: skip
def test_credentials_in_an_address_are_refused_and_not_repeated(storage):
    said = wrong_storage(storage)
    assert "credentials" in said
    assert "secret" not in said
    assert "cret@" not in said


@pytest.mark.parametrize("storage", ["s3://bucket", "gs://bucket/a/b", "./runs", "file:///mnt/x"])
def test_others_may_be_a_storage(storage):
    assert wrong_storage(storage) is None


def test_a_file_address_is_the_folder_itself():
    assert not is_address("file:///mnt/my%20runs")
    assert working_folder("file:///mnt/my%20runs") == Path("/mnt/my runs")
    assert working_folder("runs") == Path("runs")


def test_an_address_has_one_working_folder_however_it_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("ORCHESTRATOR_STORES", str(tmp_path))
    folder = working_folder("s3://bucket/sweeps")
    assert folder.parent == tmp_path.resolve()
    assert working_folder(" S3://bucket//sweeps/ ") == folder
    assert working_folder("s3://bucket/sweeps2") != folder
    assert plain_address("S3://Bucket/A/") == "s3://Bucket/A"
