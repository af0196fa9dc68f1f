"""Locks between processes, and file systems that have none."""

import errno
import fcntl
import os
import threading
import time

import pytest

from orchestrator.records.errors import JournalError
from orchestrator.records.journal import Journal, is_being_written
from orchestrator.records.mlflow.address import database_address
from orchestrator.records.mlflow.database import prepare
from orchestrator.system.file_lock import LockingUnsupportedError, locked, try_lock, unlock

UNSUPPORTED = [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK]


@pytest.fixture(params=UNSUPPORTED, ids=errno.errorcode.__getitem__)
def without_locks(request, monkeypatch):
    """A file system that answers as such ones do; gives its own words."""

    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return os.strerror(request.param)


def test_a_lock_is_waited_for_and_given_free(tmp_path):
    path = tmp_path / "lock"
    with path.open("wb") as one, path.open("wb") as other:
        assert try_lock(one, path)
        assert not try_lock(other, path)
        threading.Timer(0.15, unlock, [one]).start()
        began = time.monotonic()
        assert try_lock(other, path, wait_s=30)
        assert time.monotonic() - began < 10
    with locked(path), path.open("wb") as third:
        assert not try_lock(third, path, shared=True)


def test_a_journal_that_cannot_be_locked_is_one_message(tmp_path, without_locks):
    with pytest.raises(JournalError) as caught:
        Journal(tmp_path / "demo")
    text = str(caught.value)
    assert f"Cannot lock the journal {tmp_path / 'demo' / 'journal.jsonl'}" in text
    assert f"the file system cannot lock ({without_locks})" in text
    assert "Set `storage` to a folder on a file system that can" in text
    assert "-o flock" in text


def test_what_only_looks_needs_no_lock(tmp_path, without_locks):
    (tmp_path / "journal.jsonl").write_text("")
    assert not is_being_written(tmp_path)


def test_a_database_is_not_made_without_a_lock(tmp_path, without_locks):
    with pytest.raises(LockingUnsupportedError, match="two processes could write at once"):
        prepare(database_address(tmp_path / "mlflow.db"))
    assert not (tmp_path / "mlflow.db").exists()


def test_other_errors_of_a_lock_are_told_as_they_are(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(JournalError, match=r"Cannot lock the journal .*: Input/output error"):
        Journal(tmp_path / "demo")
