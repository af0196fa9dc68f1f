"""MLflow's addresses: made and read here alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from orchestrator.records.errors import TrackingError
from orchestrator.records.redaction import HIDDEN

DATABASE_NAME = "mlflow.db"
"""The database in a storage folder."""
ARTIFACTS_NAME = "mlartifacts"
"""The folder of artifacts in a storage folder, where there is no server to keep them."""


_ENGINES = {"sqlite", "postgresql", "mysql", "mssql"}


def tracking_uri(given: str | None, storage: Path) -> str:
    """Where MLflow records.

    Args:
        given: What the experiment or the user names; null or empty when nothing.
        storage: The storage folder.

    Returns:
        What was given, else the address of the database in the storage folder.
    """
    return given or database_address(storage.resolve() / DATABASE_NAME)


def recorded_uri(experiment: Mapping[str, Any], storage: Path, given: str | None) -> str:
    """Where MLflow recorded a sweep, as far as its journal says.

    Args:
        experiment: The experiment as its journal holds it, without secrets.
        storage: The storage folder.
        given: What the user names instead.

    Returns:
        MLflow's address.

    Raises:
        TrackingError: If the address had secrets, which no journal holds.
    """
    own = (experiment.get("tracking") or {}).get("uri")
    if given is None and own and HIDDEN in own:
        raise TrackingError(
            f"This sweep was recorded at {own}, and a journal holds no passwords. Give the whole "
            "address in the environment variable ORCHESTRATOR_TRACKING_URI (or with "
            "`--tracking-uri`, which others on this machine can read while the command runs)."
        )
    return tracking_uri(given or own, storage)


def database_address(file: Path) -> str:
    """The address of an SQLite database, whatever characters its path has.

    Args:
        file: An absolute path.

    Returns:
        `sqlite:///PATH`, percent-encoded where the path is not plain.

    Raises:
        TrackingError: If the path is not text that SQLite can open.
    """
    try:
        encoded = quote(str(file))
    except UnicodeEncodeError:
        raise TrackingError(
            f"{str(file)!a} is not valid UTF-8, and SQLite cannot open such a path. Rename the "
            "folder, or name another place by `tracking.uri`."
        ) from None
    # Of an address that begins with "sqlite:///" MLflow makes the folder as it is spelt there.
    return f"sqlite:///{file}" if encoded == str(file) else f"sqlite+pysqlite:///{encoded}"


def database_file(address: str) -> Path | None:
    """The file of an SQLite address; None for anything else, and for a database in memory."""
    scheme, _, rest = address.partition("://")
    path, _, options = rest.removeprefix("/").partition("?")
    if scheme.partition("+")[0] != "sqlite" or not path or path == ":memory:" or "uri=" in options:
        return None
    return Path(unquote(path)).absolute()


def is_database(uri: str) -> bool:
    """Whether MLflow's records are a database that we open ourselves, without a server."""
    return uri.partition("://")[0].partition("+")[0] in _ENGINES


def is_own_database(uri: str, storage: Path) -> bool:
    """Whether the records are a database in the storage folder itself."""
    file = database_file(uri)
    return file is not None and file.parent.resolve() == storage.resolve()


def artifacts_address(storage: Path, name: str = "") -> str:
    """Where a database without a server has its artifacts.

    Args:
        storage: The storage folder.
        name: An experiment; empty: the folder of all of them.

    Returns:
        A `file://` address.
    """
    return (storage.resolve() / ARTIFACTS_NAME / name).as_uri()


def local_path(address: str) -> Path | None:
    """The path of a `file:` address or of a plain path; None for an address elsewhere."""
    if address.startswith("/"):
        return Path(address)
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def place_in(storage: Path, address: str) -> Path | None:
    """Where an artifact would lie in a storage folder that has moved since it was recorded.

    Args:
        storage: The storage folder.
        address: What MLflow recorded.

    Returns:
        The path in this storage folder, whether or not it is there; None for what a server keeps.
    """
    path = local_path(address)
    if path is None or ARTIFACTS_NAME not in path.parts:
        return None
    last = len(path.parts) - 1 - path.parts[::-1].index(ARTIFACTS_NAME)
    return storage.resolve().joinpath(*path.parts[last:])
