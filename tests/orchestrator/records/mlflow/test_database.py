"""MLflow's database in a storage folder: made whole or not at all, wherever the folder lies."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
import warnings
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.records.errors import TrackingError
from orchestrator.records.mlflow import database as database_module
from orchestrator.records.mlflow import storage_folder
from orchestrator.records.mlflow.address import (
    database_address,
    database_file,
    place_in,
    recorded_uri,
    tracking_uri,
)
from orchestrator.records.mlflow.client import check_reachable, connect
from orchestrator.records.mlflow.database import prepare
from orchestrator.records.mlflow.storage_folder import (
    copied_from,
    network_file_system,
    storage_identity,
)
from orchestrator.records.redaction import redacted

POINTS = 20
WRITES = 420
"""Statements that change something, of the 438 that make the schema."""


def tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as opened:
        return {row[0] for row in opened.execute("SELECT name FROM sqlite_master")}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- making it, and being stopped while it is made -----------------------------------------------


def _die_while_making(storage: Path, kept: Path) -> None:
    """In a process of its own: be interrupted early, then killed late; keep what was there between.

    What a process has written when it is killed is what stands in its files at that moment, so
    that copying them at 20 moments is being killed at each.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine
    from sqlalchemy.exc import SQLAlchemyError

    writes, interrupted = 0, False

    @event.listens_for(Engine, "after_cursor_execute")
    def _(connection: Any, _: Any, statement: str, *__: Any) -> None:
        nonlocal writes
        if statement.startswith(("SELECT", "PRAGMA")):
            return
        writes += 1
        if not interrupted and writes == 100:
            raise KeyboardInterrupt
        if interrupted and writes % (WRITES // POINTS) == 0 and not (kept / str(writes)).exists():
            shutil.copytree(storage, kept / str(writes))
            database = Path(connection.engine.url.database)
            for file in database.parent.glob(f"{database.name}*"):
                shutil.copyfile(file, kept / f"{file.name}.{writes}")
        if interrupted and writes == WRITES:
            os.kill(os.getpid(), signal.SIGKILL)

    # In the middle of a migration SQLAlchemy makes an error of its own of Ctrl-C.
    with suppress(KeyboardInterrupt, SQLAlchemyError):
        prepare(database_address(storage / "mlflow.db"))
    shutil.copytree(storage, kept / "interrupted")
    writes, interrupted = 0, True
    prepare(database_address(storage / "mlflow.db"))


@pytest.fixture(scope="module")
def left_behind(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders named by the number of writes (and `interrupted`, `storage`), half-made databases."""
    kept = tmp_path_factory.mktemp("left-behind")
    (kept / "storage").mkdir()
    with warnings.catch_warnings():
        # The child asks nothing of other threads; Python cannot know that.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            _die_while_making(kept / "storage", kept)
        finally:
            os._exit(3)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    return kept


@pytest.fixture
def made_at_once(empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every database is made as a copy of an empty one; gives the list of those that were."""
    made: list[Path] = []

    def copy(file: Path) -> None:
        made.append(file)
        database_module.put_database(empty_database, file)

    monkeypatch.setattr(database_module, "make_database", copy)
    monkeypatch.setattr(database_module, "SETTLED_SECONDS", 0.0)
    return made


def works(storage: Path) -> bool:
    client = connect(database_address(storage / "mlflow.db"))
    client.create_experiment("demo")
    return [found.name for found in client.search_experiments()] == ["demo", "Default"]


def test_a_kill_or_ctrl_c_while_it_is_made_leaves_nothing_of_it(
    left_behind: Path, made_at_once: list[Path]
) -> None:
    left = [path for path in left_behind.iterdir() if path.is_dir()]
    assert len(left) == POINTS + 2
    for storage in left:
        assert names(storage) <= {"mlflow.db.lock", "mlflow.db.new"}
        assert works(storage)
    assert len(made_at_once) == len(left)


def test_a_half_made_database_is_set_aside_and_made_anew(
    left_behind: Path, made_at_once: list[Path], tmp_path: Path
) -> None:
    """As other programs, killed while they made it, leave it in the storage folder."""
    halves = sorted(left_behind.glob("mlflow.db.*"))
    assert len(halves) == POINTS
    assert len({len(tables(half)) for half in halves}) > POINTS // 2
    for half in halves:
        storage = tmp_path / half.suffix
        storage.mkdir()
        shutil.copyfile(half, storage / "mlflow.db")
        (storage / "mlflow.db-journal").write_bytes(b"of the half-made one")
        said = prepare(database_address(storage / "mlflow.db"))
        assert said is not None
        assert "was incomplete" in said
        assert (storage / "mlflow.db.incomplete-1").read_bytes() == half.read_bytes()
        assert works(storage)
        assert prepare(database_address(storage / "mlflow.db")) is None


def test_it_is_made_once_when_two_first_sweeps_begin_at_once(
    made_at_once: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, seen = database_module.make_database, []

    def slowly(file: Path) -> None:
        seen.append(names(tmp_path))
        time.sleep(0.3)
        make(file)

    monkeypatch.setattr(database_module, "make_database", slowly)
    address = database_address(tmp_path / "mlflow.db")
    threads = [threading.Thread(target=prepare, args=[address]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made_at_once) == 1
    assert seen == [{"mlflow.db.lock"}]
    assert works(tmp_path)


def test_a_database_that_holds_records_is_never_set_aside(
    empty_database: Path, made_at_once: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_database, file)
    client = connect(database_address(file))
    client.create_run("0")
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("UPDATE alembic_version SET version_num = 'd0e1f2a3b4c5'")
    before = file.read_bytes()
    with pytest.raises(TrackingError, match=r"cannot be brought up to date.*`mv`.*rebuilds it"):
        prepare(database_address(file))
    with closing(sqlite3.connect(file)) as opened, opened:
        opened.execute("UPDATE alembic_version SET version_num = 'of-tomorrow'")
    with pytest.raises(TrackingError, match=r"'of-tomorrow'.*a newer one wrote it"):
        prepare(database_address(file))
    assert len(file.read_bytes()) == len(before)
    assert names(tmp_path) == {"mlflow.db", "mlflow.db.lock"}
    assert not made_at_once


def test_a_database_of_an_older_mlflow_is_upgraded_on_a_copy(
    empty_database: Path, made_at_once: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_database, file)
    address = database_address(file)
    run = connect(address).create_run("0").info.run_id
    _downgrade(file)
    said = prepare(address)
    assert said is not None
    assert "mlflow.db.before-upgrade-1" in said
    assert connect(address).get_run(run).info.run_id == run


def _downgrade(file: Path) -> None:
    """Take the last migration back, as far as its own writer says how."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    config = _get_alembic_config(database_address(file))
    with database_module.hasty_engine(file).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "-1")


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"x" * 999]
)
def test_a_damaged_database_is_told_as_such(
    content: bytes, made_at_once: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used: .*move it away"):
        prepare(database_address(tmp_path / "mlflow.db"))
    assert (tmp_path / "mlflow.db").read_bytes() == content


def test_looking_whether_it_can_be_made_makes_nothing(tmp_path: Path) -> None:
    check_reachable(database_address(tmp_path / "mlflow.db"))
    assert not names(tmp_path)
    with pytest.raises(TrackingError, match=r"unable to open database file, since there is no"):
        check_reachable(database_address(tmp_path / "none" / "mlflow.db"))


# --- addresses -----------------------------------------------------------------------------------

PATHS = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
    .filter(lambda part: part not in {".", ".."}),
    min_size=1, max_size=3,
).map(lambda parts: Path("/", *parts))  # fmt: skip


@given(PATHS)
@example(Path("/what?/runs"))
@example(Path("/a#b/x%20y/100%"))
@example(Path('/it\'s "q"/new\nline/ünï'))
def test_an_address_names_its_file_whatever_its_characters(folder: Path) -> None:
    from sqlalchemy.engine import make_url

    file = folder / "mlflow.db"
    address = database_address(file)
    assert database_file(address) == file
    assert make_url(address).database == str(file)
    # MLflow makes the folder of such an address as it is spelt.
    assert address == f"sqlite:///{file}" or not address.startswith("sqlite:///")


def test_other_addresses_name_no_file() -> None:
    for address in ("http://host:5000", "postgresql://host/db", "sqlite://", "sqlite:///:memory:"):
        assert database_file(address) is None
    assert database_file("sqlite:////a/b.db?timeout=5") == Path("/a/b.db")


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(TrackingError, match=r"'/a\\udcff/mlflow\.db' is not valid UTF-8"):
        database_address(Path(os.fsdecode(b"/a\xff/mlflow.db")))


def test_where_a_sweep_was_recorded(tmp_path: Path) -> None:
    hidden = {"tracking": {"uri": redacted("postgresql://ada:sesame@db/m")}}
    assert recorded_uri({}, tmp_path, None) == tracking_uri(None, tmp_path)
    assert recorded_uri({"tracking": {"uri": "http://h"}}, tmp_path, None) == "http://h"
    assert recorded_uri(hidden, tmp_path, "http://there") == "http://there"
    with pytest.raises(TrackingError, match=r"holds no passwords.*ORCHESTRATOR_TRACKING_URI"):
        recorded_uri(hidden, tmp_path, None)


@pytest.mark.parametrize(
    "secret",
    [
        "https://h/x?a=1&sig=sesame", "https://h/x?signature=sesame", "https://h?auth=sesame",
        "https://h/?access-token=sesame", "https://b.s3/k?X-Amz-Signature=sesame",
        "https://b.s3/k?X-Amz-Security-Token=sesame", "https://h?X-Goog-Credential=sesame",
        "https://h/#access_token=sesame", "https://h?api_key_2=sesame", "db://h?passwd=sesame&x=1",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsesame", "https://h?client-secret=sesame",
        "{'Authorization': 'Bearer sesame'}", "https://h;Signature=sesame",
    ],
)  # fmt: skip
def test_secrets_are_hidden_under_whatever_name(secret: str) -> None:
    assert "sesame" not in redacted(secret)
    assert "***" in redacted(secret)


@pytest.mark.parametrize(
    "text", ["https://h?design=round&keyboard=de&author=ada", "the key=value of a prompt, sig=none"]
)
def test_other_words_are_shown(text: str) -> None:
    assert redacted(text) == text


# --- storage folders -----------------------------------------------------------------------------


def test_a_storage_folder_keeps_its_identity(tmp_path: Path) -> None:
    server, storage = "http://host:5000", tmp_path / "one"
    storage.mkdir()
    assert storage_identity(tracking_uri(None, storage), storage, make=True) == "own"
    assert storage_identity(server, storage) == ""
    chosen = storage_identity(server, storage, make=True)
    assert len(chosen) == 32
    storage.rename(tmp_path / "two")
    assert storage_identity(server, tmp_path / "two", make=True) == chosen
    assert names(tmp_path / "two") == {"storage.json"}


def test_a_copy_of_a_storage_folder_is_told_from_one_that_moved(tmp_path: Path) -> None:
    server, original = "http://127.0.0.1:5000", tmp_path / "original"
    original.mkdir()
    chosen = storage_identity(server, original, make=True)
    copy = Path(shutil.copytree(original, tmp_path / "copy"))
    assert storage_identity(server, copy) == chosen, "who only looks sees what the original had"
    own = storage_identity(server, copy, make=True)
    assert own != chosen
    assert (copied_from(copy), copied_from(original)) == (chosen, "")
    assert storage_identity(server, original, make=True) == chosen
    assert storage_identity(server, copy, make=True) == own, "and it stays"
    moved = original.rename(tmp_path / "moved")
    assert storage_identity(server, moved, make=True) == chosen
    linked = tmp_path / "linked"
    linked.symlink_to(moved)
    assert storage_identity(server, linked, make=True) == chosen


def test_a_place_is_found_again_in_a_moved_folder(tmp_path: Path) -> None:
    recorded = "file:///old/a%3Fb/mlartifacts/demo/models/m-1/artifacts"
    assert place_in(tmp_path, recorded) == tmp_path / "mlartifacts/demo/models/m-1/artifacts"
    assert place_in(tmp_path, "s3://bucket/mlartifacts/demo") is None
    assert place_in(tmp_path, "/elsewhere/demo") is None


MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/sweeps rw,relatime shared:1 - nfs4 fs-0.efs.amazonaws.com:/ rw,vers=4.1
31 30 8:2 / /mnt/sweeps/local rw - xfs /dev/sdb rw
32 22 0:41 / /mnt/two\\040words rw - fuse.sshfs ada@host: rw
33 22 0:42 / /mnt/over rw - nfs host:/ rw
34 22 8:3 / /mnt/over rw - ext4 /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/mnt/sweeps/runs", "nfs4"), ("/mnt/sweeps", "nfs4"), ("/mnt/sweepstakes", None),
        ("/mnt/sweeps/local/runs", None), ("/mnt/two words/runs", "fuse.sshfs"),
        ("/mnt/over/runs", None), ("/home/ada", None),
    ],
)  # fmt: skip
def test_network_file_systems_are_known_by_their_mounts(
    folder: str, kind: str | None, tmp_path: Path
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_file_system(database_address(Path(folder, "mlflow.db")), mounts) == kind
    assert network_file_system("http://host:5000", mounts) is None
    assert network_file_system("sqlite:////mnt/sweeps/m.db", tmp_path / "none") is None


def test_this_machine_is_understood(tmp_path: Path) -> None:
    found = network_file_system(database_address(tmp_path / "mlflow.db"))
    assert found is None or sys.platform != "linux" or found in storage_folder.NETWORK_FILE_SYSTEMS
