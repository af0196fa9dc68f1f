"""A look into MLflow's SQLite database without MLflow, whose import alone takes seconds.

Read-only, and of the tables that hold aliases and tags alone. What a database of another schema
does not answer is not known, and MLflow's client is asked when something is changed.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from orchestrator.records.mlflow.address import database_file
from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.storage_folder import storage_identity
from orchestrator.records.mlflow.tags import ALIASED, CHAMPION_ALIAS, own_tags
from orchestrator.records.registry.by_hand import AliasSeen

_BUSY_SECONDS = 2.0


def alias_seen(uri: str, storage: Path, name: str) -> AliasSeen | None:
    """The alias `champion` of a sweep's registered model, as the database has it.

    Args:
        uri: Where MLflow records.
        storage: The storage folder.
        name: The sweep's name.

    Returns:
        What is there; None for a server, and where the model or the database is not there.
    """
    file = database_file(uri)
    if file is None or not file.is_file():
        return None
    with (
        suppress(sqlite3.Error),
        closing(
            sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        ) as opened,
    ):
        return _read(opened, storage_identity(uri, storage), name)
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
