"""MLflow's SQLite database: made whole or not at all, and mended where a making was cut short.

MLflow makes its schema by dozens of migrations that SQLite does not undo when they are killed half
way, and nothing keeps two processes from making it at once. So it is made here, in a file of its
own under a lock, and renamed into place when it is whole. What holds records is never thrown away.
"""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.errors import TrackingError
from orchestrator.records.mlflow.address import artifacts_address, database_address, database_file
from orchestrator.records.redaction import redacted
from orchestrator.system import durable
from orchestrator.system.file_lock import locked
from orchestrator.system.scratch import scratch

if TYPE_CHECKING:
    import sqlalchemy


SETTLED_SECONDS = 5.0
"""What was changed within this time may be in the making, by a program without our lock."""
_SETTLING_SECONDS = 120.0
_BUSY_SECONDS = 20.0
_BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database; of no use to another one of the same name."""
_RECORDS = ("runs", "registered_models", "logged_models", "trace_info", "datasets")
"""Tables that are empty until somebody has recorded something."""


def prepare(address: str) -> str | None:
    """See to it that an SQLite database is there, whole, and of this MLflow's schema.

    Args:
        address: Where MLflow records; anything but an SQLite file is left alone.

    Returns:
        What was mended, in a sentence for people; None when nothing had to be.

    Raises:
        TrackingError: If it cannot be used, and holds what cannot be made again.
    """
    file = database_file(address)
    if file is None or _is_current(file):
        return None
    check_place(address, file)
    with locked(file.with_name(f"{file.name}.lock")):
        _settle(file)
        if _is_current(file):
            return None
        return _make_or_repair(file)


def check_place(address: str, file: Path) -> None:
    """Refuse a place where no database can be made.

    Args:
        address: Where MLflow is to record, for the message.
        file: The database of that address.

    Raises:
        TrackingError: If its folder is not there, or cannot be written.
    """
    if not file.parent.is_dir():
        why = f"there is no folder {file.parent}. Make it"
    elif not os.access(file.parent, os.W_OK):
        why = f"the folder {file.parent} cannot be written. Let it be"
    else:
        return
    raise TrackingError(
        f"`tracking.uri` is {redacted(address)}: unable to open database file, since {why}, or "
        "name another place."
    )


def _is_current(file: Path) -> bool:
    """Whether the database has the schema of the MLflow that is installed."""
    return _revision(file) == _newest_revision()


def _revision(file: Path) -> str | None:
    """The revision of a database's schema; None when it has none, or cannot be read."""
    if not file.is_file() or not file.stat().st_size:
        return None
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as opened,
    ):
        found = opened.execute("SELECT version_num FROM alembic_version").fetchall()
        return str(found[0][0]) if len(found) == 1 else None
    return None


@functools.cache
def _newest_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return _get_latest_schema_revision()


def _settle(file: Path) -> None:
    """Wait for a program that is making the database without our lock."""
    until = time.monotonic() + _SETTLING_SECONDS
    while time.monotonic() < until and file.is_file() and file.stat().st_size:
        if time.time() - file.stat().st_mtime > SETTLED_SECONDS or _is_current(file):
            return
        time.sleep(SETTLED_SECONDS / 20)


def _make_or_repair(file: Path) -> str | None:
    if not file.is_file() or not file.stat().st_size:
        make_database(file)
        return None
    try:
        with closing(sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None)) as opened:
            # SQLite undoes what a killed program had not committed, and lets no other one in.
            opened.execute("BEGIN EXCLUSIVE")
            return _repair(file, opened)
    except sqlite3.Error as error:
        if error.sqlite_errorname in {"SQLITE_BUSY", "SQLITE_LOCKED"}:
            raise TrackingError(
                f"MLflow's database {file} needs a repair and is in use by another program "
                f"({error}). End that first."
            ) from None
        raise TrackingError(_damaged(file, str(error))) from None


def _repair(file: Path, opened: sqlite3.Connection) -> str | None:
    """Repair a database that no other program can use meanwhile."""
    tables = {row[0] for row in opened.execute("SELECT name FROM sqlite_master")}
    revision = None
    if "alembic_version" in tables:
        row = opened.execute("SELECT version_num FROM alembic_version").fetchone()
        revision = str(row[0]) if row else None
    if revision == _newest_revision():
        return None
    records = (
        opened.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
        for table in _RECORDS
        if table in tables
    )
    if not any(records):
        aside = _set_aside(file, "incomplete")
        make_database(file)
        return (
            f"the database {file} was incomplete, without a record in it; it was set "
            f"aside as {aside.name} and made again"
        )
    kept = _upgrade(file, opened, revision)
    return (
        f"the database {file} was brought to the schema of the installed MLflow; the one before "
        f"is kept as {kept.name}"
    )


def _damaged(file: Path, reason: str) -> str:
    return (
        f"MLflow's database {file} cannot be used: {reason.rstrip('.')}. Bring it back from a "
        f"copy, or move it away (`mv`, with the files there that begin with {file.name}-): "
        "the same command then rebuilds it from the journal; what others recorded there would "
        "be in the moved file only."
    )


def make_database(file: Path) -> None:
    """Make an empty database with MLflow's schema."""
    from mlflow.store.db.utils import _initialize_tables
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with scratch("mlflow") as folder:
        made = folder.resolve() / file.name
        _initialize_tables(hasty_engine(made))
        # Makes the experiment that every database has, whose place would be the working folder.
        SqlAlchemyStore(database_address(made), artifacts_address(file.parent)).engine.dispose()
        put_database(made, file)


def hasty_engine(file: Path) -> sqlalchemy.Engine:
    """An engine that does not wait for the disk: of a thousand writes only the last one counts."""
    import sqlalchemy
    from sqlalchemy import event

    engine = sqlalchemy.create_engine(database_address(file), poolclass=sqlalchemy.pool.NullPool)

    @event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    return engine


def put_database(made: Path, file: Path) -> None:
    """Copy a whole database to its place, which has it whole or not at all."""
    # What a killed process left of this name is written over: the lock is ours.
    half = file.with_name(f"{file.name}.new")
    shutil.copyfile(made, half)
    with half.open("rb+") as written:
        os.fsync(written.fileno())
    _remove_beside(file)
    half.replace(file)


def _set_aside(file: Path, why: str) -> Path:
    aside = _free_name(file, why)
    file.rename(aside)
    for ending in _BESIDE:
        with suppress(FileNotFoundError):
            file.with_name(file.name + ending).rename(aside.with_name(aside.name + ending))
    return aside


def _free_name(file: Path, why: str) -> Path:
    number = 1
    while (name := file.with_name(f"{file.name}.{why}-{number}")).exists():
        number += 1
    return name


def _remove_beside(file: Path) -> None:
    for ending in _BESIDE:
        file.with_name(file.name + ending).unlink(missing_ok=True)


def _upgrade(file: Path, opened: sqlite3.Connection, revision: str | None) -> Path:
    """Bring a database with records to the newest schema, on a copy; give where the old one is."""
    from mlflow.store.db.utils import _upgrade_db

    if not _is_known(revision):
        raise TrackingError(
            f"MLflow's database {file} has the schema {revision!r}, which the installed MLflow "
            "does not know: a newer one wrote it. Install that, or name another database by "
            "`tracking.uri`."
        )
    with scratch("mlflow") as folder:
        # Read through the connection: closing the file elsewhere would end this process's locks.
        before, copy = opened.serialize(), folder.resolve() / file.name
        copy.write_bytes(before)
        try:
            _upgrade_db(hasty_engine(copy))
        except Exception as error:  # noqa: BLE001 (migrations raise whatever their writers chose)
            raise TrackingError(
                _damaged(file, f"its schema cannot be brought up to date ({_first_line(error)})")
            ) from None
        kept = _free_name(file, "before-upgrade")
        durable.write(kept, before)
        put_database(copy, file)
    return kept


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _is_known(revision: str | None) -> bool:
    """Whether the installed MLflow can go on from a revision; also from none at all."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    return revision is None or revision in {script.revision for script in scripts.walk_revisions()}
