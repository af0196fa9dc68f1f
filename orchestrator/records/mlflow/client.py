"""The client of MLflow: quiet, answering within half a minute, with errors for people.

MLflow is imported inside the functions: it takes seconds.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from orchestrator.records.errors import AdapterFolderError, TrackingError, UnknownModelError
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.mlflow.address import database_file, is_database
from orchestrator.records.mlflow.database import check_place, prepare
from orchestrator.records.redaction import redacted
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.system.environment import changed
from orchestrator.system.mlflow_environment import mlflow_redirects, spare_loopback

if TYPE_CHECKING:
    from mlflow import MlflowClient


TAG = "orchestrator."
"""Every tag that we write begins with this, except those that MLflow's own pages read.

These are `mlflow.parentRunId` and `mlflow.note.content` of runs, and `mlflow.sharedViewState.*` of
experiments.
"""

ROLE = f"{TAG}role"
"""Tag of a run: `sweep` for the sweep's own, which is none of its trials; else what the trial is
for."""


_HTTP_BOUNDS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}
"""Three attempts of at most 7 s and about 5 s of waiting: an answer within 30 s, not 15 minutes."""
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A uv.lock in the working folder is another project's; our requirements are explicit.
    "MLFLOW_UV_AUTO_DETECT": "false",
}
_LOGGERS = {
    "mlflow": logging.WARNING,
    # Tells of every save from a checkout that this package is not installed.
    "mlflow.utils.requirements_utils": logging.ERROR,
    # Writes the whole statement and a traceback of what is told in one message here.
    "mlflow.store.db.utils": logging.CRITICAL,
    "alembic": logging.WARNING,
    "urllib3": logging.ERROR,
}
_CONNECT_SECONDS = 10


_DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Where the package's name is not the module's."""


_FOR_PEOPLE = (TrackingError, UnknownModelError, AdapterFolderError)


@contextmanager
def mlflow_errors(uri: str, sweep_folder: Path | None = None) -> Iterator[None]:
    """Turn whatever MLflow, its database or the network raises into one `TrackingError`.

    Meanwhile the environment names no other store, run or model that MLflow would record into.

    Args:
        uri: Where MLflow records; shown without credentials.
        sweep_folder: The sweep whose journal is safe whatever happens here, if there is one.

    Yields:
        Nothing.

    Raises:
        TrackingError: Whatever the body raised, unless its message is for people already.
        KeyboardInterrupt: If that was what the body was stopped by, whatever became of it.
    """
    safe = (
        f" Nothing is lost: {SweepFolder(sweep_folder).journal} holds everything, and the same "
        "command catches MLflow up when that is fixed."
        if sweep_folder is not None
        else ""
    )
    try:
        with changed(mlflow_redirects()):
            yield
    except _FOR_PEOPLE as error:
        # One that came through here before has said it already.
        if not isinstance(error, TrackingError) or not safe or JOURNAL_NAME in str(error):
            raise
        raise TrackingError(f"{error}{safe}") from None
    except Exception as error:  # noqa: BLE001 (stores raise what they like; no sweep ends by it)
        if any(isinstance(link, KeyboardInterrupt) for link in _chain(error)):
            # In the middle of a statement SQLAlchemy makes an error of its own of it.
            raise KeyboardInterrupt from None
        raise TrackingError(
            f"MLflow at {redacted(uri)} cannot be used: {_what_happened(error)}. "
            f"{_advice(uri)}{safe}"
        ) from None


def _advice(uri: str) -> str:
    file = database_file(uri)
    if file is not None:
        return (
            f"Check that {file} can be read and written and that its disk has space, or name "
            "another place by `tracking.uri`."
        )
    what = "database answers" if is_database(uri) else "server runs"
    return f"Check `tracking.uri` and that the {what}."


def _what_happened(error: Exception) -> str:
    """The innermost operating-system error ("connection refused"), else the error itself."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    shown: BaseException = getattr(error, "orig", None) or error
    for link in _chain(error):
        shown = link if isinstance(link, OSError) else shown
    text = redacted(" ".join(str(shown).split())).rstrip(".")
    text = f"{text[:400]}..." if len(text) > 400 else text
    if isinstance(error, MlflowException | SQLAlchemyError | OSError):
        return text or type(shown).__name__
    # Nobody wrote this one for the user: its kind and place say more than its words.
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return (
        f"{type(shown).__name__}: {text} ({place})" if text else f"{type(shown).__name__} ({place})"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from, or while handling."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def connect(uri: str, *, say: Callable[[str], None] | None = None) -> MlflowClient:
    """A quiet client that answers within half a minute when nobody is there.

    Args:
        uri: A database (`sqlite:///...`, `postgresql://...`) or a server (`http://...`).
        say: Told what of a database had to be mended.

    Returns:
        A client for runs and registry; no global state of MLflow is touched.

    Raises:
        TrackingError: If the address is not one that MLflow 3 records to, or its driver is missing.
    """
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    if scheme == "file":
        raise TrackingError(
            f"`tracking.uri` is the folder {redacted(uri)!r}, and MLflow 3 records into databases "
            "and servers only. Leave it out (SQLite in `storage`), or write sqlite:///FILE or "
            "http://HOST:PORT."
        )
    spare_loopback()
    for name, value in {**_QUIET, **_HTTP_BOUNDS}.items():
        os.environ.setdefault(name, value)
    # Not left to the user: MLflow prints the address of every run that ends, credentials included.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    with warnings.catch_warnings():
        # Importing it warns of type hints within MLflow itself.
        warnings.simplefilter("ignore")
        importlib.import_module("mlflow.pyfunc")
    from mlflow import MlflowClient

    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    if database_file(uri) is not None:
        # A connection that is kept open goes on writing into a file that was replaced.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        mended = prepare(uri)
        if mended is not None and say is not None:
            say(mended)
    elif is_database(uri):
        _try_database(uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def check_reachable(uri: str) -> None:
    """Ask MLflow for one thing, so that an address where nobody answers is found in seconds.

    Args:
        uri: Where MLflow records.

    Raises:
        TrackingError: If it cannot be used.
    """
    parts = urlsplit(uri)
    with mlflow_errors(uri):
        proxied = parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")
        if parts.scheme in {"http", "https"} and parts.hostname and not proxied:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            # MLflow's own attempts at an address that swallows packets take half a minute.
            socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
        file = database_file(uri)
        if file is not None and not file.exists():
            check_place(uri, file)  # looking makes no database
            return
        client = connect(uri)
        if not is_database(uri):
            client.search_experiments(max_results=1)


def _try_database(uri: str) -> None:
    """Open and close a database once: MLflow itself would retry for minutes."""
    import sqlalchemy

    timeout = {} if uri.startswith(("sqlite", "mssql")) else {"connect_timeout": _CONNECT_SECONDS}
    try:
        engine = sqlalchemy.create_engine(
            uri, poolclass=sqlalchemy.pool.NullPool, connect_args=timeout
        )
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"`tracking.uri` is {redacted(uri)}, whose driver is not installed: "
            f"run `pip install {_DRIVERS.get(str(error.name), error.name)}`."
        ) from None
    try:
        engine.connect().close()
    finally:
        engine.dispose()
