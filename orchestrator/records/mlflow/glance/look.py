"""A look at who has the alias in MLflow, without MLflow, whose import alone takes seconds.

Of SQLite the tables that hold aliases and tags are read, and nothing is written. What a database of
another schema does not answer is not known, and MLflow's client is asked when something is changed.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.records.mlflow.address import database_file
from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.glance.server import NotAskedError, alias_on_server
from orchestrator.records.mlflow.storage_folder import storage_identity
from orchestrator.records.mlflow.tags import ALIASED, CHAMPION_ALIAS, own_tags
from orchestrator.records.registry.by_hand import AliasSeen

_BUSY_SECONDS = 2.0


@dataclass(frozen=True)
class Look:
    """What a look at the alias has found."""

    seen: AliasSeen | None = None
    """The alias as MLflow has it; None where the model or the database is not there."""
    unasked: str | None = None
    """Why MLflow could not be asked, so that a change made there may be unknown; a clause."""


def look(uri: str, storage: Path, name: str) -> Look:
    """Look at the alias `champion` of a sweep's registered model.

    Args:
        uri: Where MLflow records: SQLite is read, a server asked for at most some seconds.
        storage: The storage folder.
        name: The sweep's name.

    Returns:
        What is there, or why that is not known.
    """
    file, identity = database_file(uri), storage_identity(uri, storage)
    if file is not None:
        return Look(_in_database(file, identity, name))
    if urlsplit(uri).scheme not in {"http", "https"}:
        return Look(unasked="commands that only look ask SQLite and HTTP servers alone")
    if not identity:
        return Look()  # nothing of this storage folder was ever recorded there
    try:
        return Look(alias_on_server(uri, identity, name))
    except NotAskedError as error:
        return Look(unasked=str(error))


def _in_database(file: Path, identity: str, name: str) -> AliasSeen | None:
    if not file.is_file():
        return None
    with (
        suppress(sqlite3.Error),
        closing(
            sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        ) as opened,
    ):
        return _read(opened, identity, name)
    return None


def _read(opened: sqlite3.Connection, identity: str, name: str) -> AliasSeen | None:
    wanted = own_tags(identity, name)
    models: dict[str, dict[str, str]] = {}
    rows = opened.execute("SELECT name, key, value FROM registered_model_tags")
    for model, key, value in rows:
        models.setdefault(str(model), {})[str(key)] = str(value)
    # As often renamed as anybody likes, it is known by its tags.
    own = [m for m, tags in models.items() if all(tags.get(k) == v for k, v in wanted.items())]
    if not own:
        return None
    model = own[0]
    found = opened.execute(
        "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?",
        (model, CHAMPION_ALIAS),
    ).fetchone()
    version = None if found is None else str(found[0])
    tags: dict[str, str] = {}
    if version is not None:
        tags = {
            str(key).removeprefix(TAG): str(value)
            for key, value in opened.execute(
                "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?",
                (model, int(version)),
            )
        }
    return AliasSeen(model, version, models[model].get(ALIASED), tags)
