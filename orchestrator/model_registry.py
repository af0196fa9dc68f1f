"""Trained adapters as MLflow models, and the champion of a sweep in MLflow's model registry.

A logged model is a folder of safetensors and JSON (`write_model_folder`) that MLflow loads through
`_load_pyfunc` below: loading it runs no code of its own and unpickles nothing. Everything here can
be repeated after a crash: what MLflow holds already is found by its tags and used again.

MLflow is imported inside the functions: it takes seconds. `connect` and `mlflow_errors` are the
door to it for this room and for `orchestrator.tracking`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import ValidationError

from orchestrator.content_cache import user_cache
from orchestrator.encoding import prompt_columns
from orchestrator.experiment import Experiment, ExperimentError
from orchestrator.foreign_settings import changed, mlflow_redirects, spare_loopback
from orchestrator.journal import JOURNAL_NAME, Line, last_line, path_within
from orchestrator.model_folder import MODEL_FILE, read_model_document
from orchestrator.seals import content_hash, file_hashes, flaw, read_seal, seal
from orchestrator.sweep_view import versions
from orchestrator.tasks import (
    ClassificationTask,
    GenerationTask,
    LanguageModellingTask,
    MultipleChoiceTask,
    TaskFileError,
    parse_task,
    suggestion,
)
from orchestrator.tracking_address import (
    TrackingError,
    database_file,
    is_database,
    local_path,
    place_in,
    redacted,
    redacted_document,
)
from orchestrator.tracking_database import check_place, prepare, storage_identity

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient, entities
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.models import ModelSignature

_AskedTask: TypeAlias = ClassificationTask | MultipleChoiceTask | GenerationTask

TAG = "orchestrator."
"""Every tag that we write begins with this, except those that MLflow's own pages read.

These are `mlflow.parentRunId` and `mlflow.note.content` of runs, and `mlflow.sharedViewState.*` of
experiments.
"""
CHAMPION_ALIAS = "champion"
ADAPTER_FOLDER = "adapter"

ADAPTER_MARKER = "adapter.json"
"""What `curlora.save_adapter` writes beside an adapter; named here because importing that package
brings torch."""
_ADAPTER_FILES = {".json", ".safetensors"}
_LOGGED_MODEL_NAME = "adapter"
_LOADED_WITH = ("torch", "transformers", "peft", "safetensors")
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
_NAMES_SHOWN = 20
_DRIVERS = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Where the package's name is not the module's."""


class UnknownModelError(ValueError):
    """A reference to a model that the registry does not hold; the message names what it holds."""


class AdapterFolderError(ValueError):
    """A folder that holds no adapter in safetensors."""


_FOR_PEOPLE = (TrackingError, UnknownModelError, AdapterFolderError)

# --- the door to MLflow -------------------------------------------------------------------------


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
        f" Nothing is lost: {sweep_folder / JOURNAL_NAME} holds everything, and the same command "
        "catches MLflow up when that is mended."
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
            f"Check that {file} can be read and written and that its disk has room, or name "
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


# --- what the journal says ----------------------------------------------------------------------


def sweep_id(lines: Sequence[Line]) -> str:
    """What no other sweep shares; before sweeps had an identity, name and first millisecond."""
    opening = lines[0]
    if opening.get("sweep_id"):
        return str(opening["sweep_id"])
    return f"{opening['sweep']}@{milliseconds(opening)}"


def milliseconds(line: Line) -> int:
    """The time of a line, in milliseconds since the epoch."""
    return round(line["time"] * 1000)


def effective_experiment(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> Experiment:
    """What a trial really ran.

    Args:
        document: The sweep's experiment as its journal holds it.
        overrides: The trial's dotted paths and values.

    Returns:
        The experiment with the overrides, without a search.

    Raises:
        TrackingError: If this version of the format does not know the journal's experiment.
    """
    try:
        return Experiment.model_validate(document).with_overrides(overrides)
    except (ValidationError, ExperimentError) as error:
        raise TrackingError(
            f"The journal holds an experiment that this version does not accept ({error}). "
            "Use the version that wrote it."
        ) from None


def write_model_folder(
    target: Path, *, adapter_folder: Path, lines: Sequence[Line], trial: str
) -> Path:
    """Write the folder that a trained adapter travels in: `adapter/` and `model.json`.

    Args:
        target: Where to; created when missing, and what it held of a model is replaced.
        adapter_folder: What PEFT's `save_pretrained` wrote.
        lines: The sweep's journal.
        trial: The trial that trained the adapter.

    Returns:
        `target`.

    Raises:
        AdapterFolderError: If the folder holds no adapter in safetensors, or another than the
            trial made.
    """
    files = sorted(p for p in adapter_folder.glob("*") if p.suffix in _ADAPTER_FILES)
    names = {file.name for file in files}
    whole = {"adapter_config.json", "adapter_model.safetensors"} <= names
    if ADAPTER_MARKER not in names and not whole:
        raise AdapterFolderError(
            f"{adapter_folder} holds no adapter: {ADAPTER_MARKER}, or `adapter_config.json` and "
            f"`adapter_model.safetensors`, are needed, got {[file.name for file in files]}. "
            "Pickled weights (`.bin`) are never read."
        )
    expected = (last_line(lines, "trial_ended", trial) or {}).get("adapter_sha256")
    wrong = adapter_flaw(adapter_folder, expected, trial)
    if wrong is not None:
        raise AdapterFolderError(
            f"{adapter_folder} is not the adapter that trial {trial} made: {wrong}. It is not "
            "used. Restore it from a copy, or give the command of the sweep with `--retry-failed`, "
            "which trains it again."
        )
    shutil.rmtree(target / ADAPTER_FOLDER, ignore_errors=True)
    (target / ADAPTER_FOLDER).mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, target / ADAPTER_FOLDER / file.name)
    text = json.dumps(_model_document(lines, trial), indent=2, allow_nan=False)
    (target / MODEL_FILE).write_text(text + "\n", encoding="utf-8")
    seal(target, None)
    return target


def adapter_flaw(folder: Path, expected: str | None, trial: str) -> str | None:
    """Why an adapter is not the one that the journal vouches for.

    Args:
        folder: The adapter.
        expected: The journal's hash of it; None in journals of earlier versions.
        trial: Who made it.

    Returns:
        What is wrong; None if it is that one, or nothing can be known.
    """
    if expected is None:
        return None
    if not folder.is_dir():
        return "it is missing"
    if content_hash(file_hashes(folder)) == expected:
        return None
    wrong = flaw(folder)
    if wrong is not None:
        return wrong
    maker = read_seal(folder).get("trial")
    return f"it is that of trial {maker}" if maker != trial else "it is of another attempt"


def latest_base(lines: Sequence[Line]) -> dict[str, Any]:
    """What was recorded of the base at the last start of the sweep: where it is, and its hash."""
    continued = last_line(lines, "sweep_continued") or {}
    return continued.get("base") or lines[0].get("provenance", {}).get("base", {})


def _model_document(lines: Sequence[Line], trial: str) -> dict[str, Any]:
    opening = lines[0]
    proposed = last_line(lines, "trial_proposed", trial)
    overrides = proposed["overrides"] if proposed else {}
    experiment = effective_experiment(opening["experiment"], overrides)
    base = latest_base(lines)
    ended = last_line(lines, "trial_ended", trial) or {}
    model = experiment.model
    document = {
        "base": {
            # It may have been moved since the sweep began.
            "name": base.get("name", model.name),
            "revision": base.get("revision", model.revision),
            "gguf": base.get("gguf", model.gguf),
            "quantization": model.quantization,
            "sha256": base.get("sha256"),
            "setup_sha256": base.get("setup_sha256"),
        },
        "precision": experiment.training.precision,
        "max_length": experiment.training.max_length,
        "tasks": {name: opening["tasks"][name] for name in experiment.tasks},
        "trial": trial,
        "sweep": opening["sweep"],
        "sweep_id": sweep_id(lines),
        "adapter_sha256": ended.get("adapter_sha256"),
        "measures": ended.get("measures", {}),
        "overrides": overrides,
        "experiment": experiment.model_dump(mode="json"),
    }
    return redacted_document(document)


# --- a trial's model ----------------------------------------------------------------------------


def log_trial_model(
    client: MlflowClient, run: Run, *, adapter_folder: Path, lines: Sequence[Line], trial: str
) -> str:
    """Log a trial's adapter as a `pyfunc` model of its run, once.

    Args:
        client: From `connect`.
        run: The trial's MLflow run.
        adapter_folder: What PEFT's `save_pretrained` wrote.
        lines: The sweep's journal.
        trial: The trial's name.

    Returns:
        The identity of the logged model; the same one when it was logged before. A folder without
        an adapter is an `AdapterFolderError`, before MLflow is told of a model.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    found = client.search_logged_models(
        [experiment_id], filter_string=f"source_run_id = '{run_id}'"
    ).to_list()
    for model in found:
        if model.status == LoggedModelStatus.READY:
            return model.model_id
    with tempfile.TemporaryDirectory(prefix="orchestrator-model-") as scratch:
        folder = write_model_folder(
            Path(scratch) / "trained", adapter_folder=adapter_folder, lines=lines, trial=trial
        )
        # One that a crash left half written is written again, under the same identity.
        model = next(iter(found), None) or client.create_logged_model(
            experiment_id, name=_LOGGED_MODEL_NAME, source_run_id=run_id,
            tags={f"{TAG}sweep": sweep_id(lines), f"{TAG}trial": trial}, model_type="adapter",
        )  # fmt: skip
        document = read_model_document(folder)
        saved = Path(scratch) / "saved"
        with warnings.catch_warnings():
            # MLflow's own use of pandas is deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            mlflow.pyfunc.save_model(
                path=str(saved),
                loader_module="orchestrator.model_registry",
                data_path=str(folder),
                mlflow_model=Model(
                    artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id
                ),
                signature=_signature(document),
                input_example=_input_example(document),
                pip_requirements=_requirements(lines, trial),
            )
        client.log_model_artifacts(model.model_id, str(saved))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model.model_id


def _requirements(lines: Sequence[Line], trial: str) -> list[str]:
    """Exact pins of what loading needs: as the trial was made with, else what is installed here."""
    made_with = versions_of(lines, trial)
    own = made_with.get("code", "").partition(" ")[0] or _installed("curlora-orchestrator")
    pins = [f"curlora-orchestrator=={own}" if own else "curlora-orchestrator"]
    # "2.13.0+cpu" is a build that package indexes do not serve.
    pins.extend(
        f"{package}=={(made_with.get(package) or metadata.version(package)).partition('+')[0]}"
        for package in _LOADED_WITH
    )
    return pins


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout
        return None


def versions_of(lines: Sequence[Line], trial: str) -> dict[str, str]:
    """With which versions a trial was made, by what they are of; see `sweep_view.versions`."""
    started = last_line(lines, "trial_started", trial) or {}
    return started.get("versions") or versions(lines[0].get("provenance", {}))


def _asked_tasks(document: Mapping[str, Any]) -> dict[str, _AskedTask]:
    """The tasks of a model document that can be asked for a label or a text."""
    try:
        parsed = {n: parse_task(t, f"{MODEL_FILE}: {n}") for n, t in document["tasks"].items()}
    except TaskFileError as error:
        raise TrackingError(
            f"The task is not one that this version knows ({error}). Use the version that wrote it."
        ) from None
    return {n: t for n, t in parsed.items() if not isinstance(t, LanguageModellingTask)}


def _columns(task: _AskedTask) -> dict[str, Any]:
    """The columns that a task's prompt reads, with an example of each."""
    columns: dict[str, Any] = dict.fromkeys(prompt_columns(task.prompt), "An example.")
    if isinstance(task, MultipleChoiceTask):
        columns[task.choices_column] = ["one", "another"]
    return columns


def _input_example(document: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    first = next(iter(_asked_tasks(document).values()), None)
    return pd.DataFrame([_columns(first)] if first else [{"text": "An example."}])


def _signature(document: Mapping[str, Any]) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    tasks = _asked_tasks(document)
    wanted = [_columns(task) for task in tasks.values()]
    inputs = {name: example for columns in wanted for name, example in columns.items()}
    classifications = (task for task in tasks.values() if isinstance(task, ClassificationTask))
    labels = {label for task in classifications for label in task.label_values}
    return ModelSignature(
        inputs=Schema([
            ColSpec(Array(DataType.string) if isinstance(example, list) else DataType.string, name,
                    required=all(name in columns for columns in wanted))
            for name, example in inputs.items()
        ]) if inputs else None,
        outputs=Schema([
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "probability", required=False),
            *(ColSpec(DataType.double, probability_column(label), required=False)
              for label in sorted(labels)),
        ]),
        params=ParamSchema([ParamSpec("task", DataType.string, task) for task in list(tasks)[:1]]),
    )  # fmt: skip


def probability_column(label: str) -> str:
    """The output column that holds the probability of one label."""
    return f"probability_{label}"


class AdapterModel:
    """What `mlflow.pyfunc.load_model` gives: one adapter, all the tasks that it learnt."""

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        """Load base and adapter.

        Args:
            folder: A folder from `write_model_folder`.
            base: Where the base is now, if it was moved since.
        """
        from orchestrator.inference import Predictor

        self._tasks = _asked_tasks(read_model_document(folder))
        self._predictor = Predictor.from_folder(folder, base=base)

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Choose a label by the task's own metric, or write a text, for every row.

        Args:
            model_input: The columns that the task's prompt reads.
            params: `{"task": name}`; the first task that was learnt when left out.

        Returns:
            One row per input row: `label`, its `probability` in [0, 1], and a column
            `probability_<label>` for every label; for multiple choice `probability_<i>` for the
            row's choice i, counted from 0. Of a generation task `label` alone, the text.

        Raises:
            ValueError: If the task is not one that the adapter learnt, or a column is missing.
        """
        import pandas as pd

        name = (params or {}).get("task") or next(iter(self._tasks), None)
        task = self._tasks.get(str(name))
        if task is None:
            raise ValueError(f"`task` should be one of {list(self._tasks)}, got {name!r}.")
        missing = sorted(set(_columns(task)) - set(map(str, model_input.columns)))
        if missing:
            raise ValueError(
                f"The task {name!r} reads the columns {sorted(_columns(task))}; {missing} are "
                f"missing from {list(model_input.columns)}."
            )
        rows = [{str(k): v for k, v in row.items()} for row in model_input.to_dict("records")]
        if isinstance(task, MultipleChoiceTask):
            # MLflow hands a list on as an array.
            rows = [{**row, task.choices_column: list(row[task.choices_column])} for row in rows]
        answers: list[dict[str, Any]] = []
        for prediction in self._predictor.predict(str(name), rows):
            chances = prediction.by_position
            labels = (
                task.label_values if isinstance(task, ClassificationTask)
                else map(str, range(len(chances)))
            )  # fmt: skip
            answers.append({
                "label": prediction.label,
                **({"probability": prediction.probability} if chances else {}),
                **dict(zip(map(probability_column, labels), chances, strict=True)),
            })  # fmt: skip
        return pd.DataFrame(answers, index=model_input.index)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> AdapterModel:
    """MLflow's entry point; safetensors and JSON are read, nothing is executed.

    Args:
        path: The model folder.
        model_config: `base`: where the base is now, if it was moved since.

    Returns:
        The loaded model.
    """
    base = (model_config or {}).get("base")
    return AdapterModel(Path(path), Path(base) if base else None)


# --- the champion -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """What became of a sweep's champion in the registry."""

    model: str
    """The registered model: the sweep's name."""
    version: str | None
    """The champion's version; null when the sweep has no champion."""
    text: str
    """What was done, in sentences for people."""


def _every(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """What a search finds on all its pages; it is given the token of the page."""
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def find_runs(client: MlflowClient, experiment_id: str, sweep: str) -> dict[str | None, list[Run]]:
    """The runs of one sweep by trial (None for the sweep's own run), found by their tags.

    Args:
        client: From `connect`.
        experiment_id: MLflow's experiment.
        sweep: From `sweep_id`.

    Returns:
        At least one run of each trial that has any; those that were deleted come last.
    """
    from mlflow.entities import ViewType

    wanted = f"tags.`{TAG}sweep` = '{sweep}'"
    runs: dict[str | None, list[Run]] = {}
    for run in _every(
        lambda token: client.search_runs(
            [experiment_id], wanted, ViewType.ALL, max_results=1000, page_token=token
        )
    ):
        runs.setdefault(run.data.tags.get(f"{TAG}trial"), []).append(run)
    return {trial: sorted(found, key=is_deleted) for trial, found in runs.items()}


def is_deleted(run: Run) -> bool:
    """Whether somebody deleted a run; MLflow then keeps it and takes nothing more for it."""
    return run.info.lifecycle_stage != "active"


# --- names in an MLflow that others use, too ----------------------------------------------------

_STORAGE, _NAME = f"{TAG}storage", f"{TAG}name"
"""Tags of experiments and registered models: whose they are, and the sweep's name there."""


def own_tags(identity: str, name: str) -> dict[str, str]:
    """The tags by which an experiment or a registered model is found again, whatever its name.

    Args:
        identity: From `storage_identity`.
        name: The sweep's name.

    Returns:
        Tags and their values.
    """
    return {_STORAGE: identity, _NAME: name}


def find_experiment(
    client: MlflowClient, name: str, identity: str, sweep: str
) -> tuple[entities.Experiment | None, str]:
    """The experiment of the sweeps of one name in one storage folder.

    Args:
        client: From `connect`.
        name: The sweep's name.
        identity: From `storage_identity`.
        sweep: From `sweep_id`.

    Returns:
        The experiment, under whatever name somebody gave it since, or None; and the name that a new
        one may have: the sweep's, unless another storage folder has an experiment of that name.
    """
    from mlflow.entities import ViewType

    tagged = f"tags.`{_STORAGE}` = '{identity}' AND tags.`{_NAME}` = '{name}'"
    own = client.search_experiments(ViewType.ALL, filter_string=tagged)
    if own:
        return min(own, key=lambda found: found.lifecycle_stage != "active"), name
    found = client.get_experiment_by_name(name)
    if found is None or _STORAGE not in found.tags:
        return found, name
    if client.search_runs([found.experiment_id], f"tags.`{TAG}sweep` = '{sweep}'", max_results=1):
        return found, name
    return None, _own_name(name, identity)


def _own_name(name: str, identity: str) -> str:
    return f"{name}-{identity[:6]}"


def find_model(
    client: MlflowClient, name: str, identity: str
) -> tuple[RegisteredModel | None, str]:
    """The registered model of the sweeps of one name in one storage folder.

    Args:
        client: From `connect`.
        name: The sweep's name.
        identity: From `storage_identity`; empty: whoever's it is.

    Returns:
        The model or None, and its name there.
    """
    found = _model_named(client, name)
    if not identity or found is None or found.tags.get(_STORAGE, identity) == identity:
        return found, name
    own = _own_name(name, identity)
    return _model_named(client, own), own


def _model_named(client: MlflowClient, name: str) -> RegisteredModel | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def register_champion(
    uri: str, *, sweep_folder: Path, lines: Sequence[Line], just_decided: bool = False
) -> Registration:
    """Register the champion's model under the sweep's name and give it the alias `champion`.

    The same champion always gets the same version. The alias is never taken from the champion of
    a sweep of the same name that was decided later, nor from a version that somebody else gave it
    to, and stays where it is without a champion.

    Args:
        uri: Where MLflow records; the sweep must have been projected before.
        sweep_folder: The sweep's folder.
        lines: The sweep's journal, with its verdict.
        just_decided: The verdict is of this moment, so that it is the latest whatever clocks say.

    Returns:
        The version, and what was done.

    Raises:
        TrackingError: If MLflow cannot be used, or does not hold the champion's run.
    """
    verdict, sweep = last_line(lines, "sweep_ended"), str(lines[0]["sweep"])
    with mlflow_errors(uri, sweep_folder):
        client, identity = connect(uri), storage_identity(uri, sweep_folder.parent, make=True)
        model, name = find_model(client, sweep, identity)
        alias = _aliased(client, model)
        if verdict is None or verdict["champion"] is None:
            why = verdict["reason"] if verdict else "the sweep has not ended"
            kept = (
                f" The alias `{CHAMPION_ALIAS}` of the model {name!r} still names version "
                f"{alias.version}, of an earlier sweep; it was not moved."
                if alias
                else ""
            )
            return Registration(name, None, f"No champion was registered: {why}.{kept}")
        trial = str(verdict["champion"])
        run, parent = _champion_runs(client, lines, trial, identity, uri, sweep_folder)
        model = _owned_model(client, name, model, own_tags(identity, sweep))
        version = _known_version(client, name, sweep_id(lines), trial)
        if version is None:
            version = _new_version(client, name, run, parent,
                                   sweep_folder=sweep_folder, lines=lines, trial=trial)  # fmt: skip
        else:
            version = _decided_again(client, version, verdict, test_scores(lines, trial))
        text = _move_alias(client, model, version, alias, latest=just_decided)
        return Registration(name, str(version.version), text)


def _owned_model(
    client: MlflowClient, name: str, model: RegisteredModel | None, tags: dict[str, str]
) -> RegisteredModel:
    """The registered model, made when missing, with the tags that say whose it is."""
    if model is None:
        client.create_registered_model(name, tags, "Champions of the sweep of this name.")
    for key, value in tags.items():
        if model is not None and key not in model.tags:
            client.set_registered_model_tag(name, key, value)
    return client.get_registered_model(name)


def _champion_runs(
    client: MlflowClient, lines: Sequence[Line], trial: str, identity: str, uri: str, folder: Path
) -> tuple[Run, Run]:
    """The runs of a champion and of its sweep; an error when they are missing or were deleted."""
    experiment, _ = find_experiment(client, str(lines[0]["sweep"]), identity, sweep_id(lines))
    runs = find_runs(client, experiment.experiment_id, sweep_id(lines)) if experiment else {}
    if trial not in runs or None not in runs:
        raise TrackingError(
            f"MLflow at {redacted(uri)} does not hold the run of the champion {trial!r} of "
            f"{folder}. Bring it up to date from the journal first."
        )
    for run in (runs[trial][0], runs[None][0]):
        if is_deleted(run):
            raise TrackingError(
                f"The MLflow run {run.info.run_name!r} of {folder} was deleted, and its champion "
                "cannot be registered without it. Bring it back (`mlflow runs restore --run-id "
                f"{run.info.run_id}`), then give the same command."
            )
    return runs[trial][0], runs[None][0]


def _aliased(client: MlflowClient, model: RegisteredModel | None) -> ModelVersion | None:
    version = model.aliases.get(CHAMPION_ALIAS) if model is not None else None
    return client.get_model_version(model.name, str(version)) if model and version else None


def _known_version(client: MlflowClient, name: str, sweep: str, trial: str) -> ModelVersion | None:
    wanted = f"name = '{name}' AND tags.`{TAG}sweep` = '{sweep}' AND tags.`{TAG}trial` = '{trial}'"
    return next(iter(client.search_model_versions(wanted)), None)


def _decided_again(
    client: MlflowClient, version: ModelVersion, verdict: Line, test: Mapping[str, Any] | None
) -> ModelVersion:
    """Bring a version's tags up to date.

    A champion may come back after another trial of its sweep was champion for a while, and its test
    scores may be read once it has been registered.

    Args:
        client: From `connect`.
        version: The version.
        verdict: The line of `sweep_ended` that names its trial.
        test: What `test_scores` gave.

    Returns:
        The version with them.
    """
    wanted = _verdict_tags(verdict) | {_TEST: json.dumps(test)}
    for key, value in wanted.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, str(version.version), key, value)
    return client.get_model_version(version.name, str(version.version))


def _new_version(
    client: MlflowClient, name: str, run: Run, parent: Run, *,
    sweep_folder: Path, lines: Sequence[Line], trial: str,
) -> ModelVersion:  # fmt: skip
    """A version that holds a trial's model."""
    ended = last_line(lines, "trial_ended", trial)
    if ended is None or not ended["adapter"]:
        raise TrackingError(f"The journal of {sweep_folder} names no adapter of {trial!r}.")
    adapter = path_within(sweep_folder, ended["adapter"])
    model_id = log_trial_model(client, run, adapter_folder=adapter, lines=lines, trial=trial)
    yaml_uri = f"runs:/{parent.info.run_id}/experiment.yaml"
    return client.create_model_version(
        name,
        # MLflow would look up `models:/<id>` at its global address, which is not ours.
        source=client.get_logged_model(model_id).artifact_location,
        run_id=run.info.run_id,
        model_id=model_id,
        tags=_version_tags(lines, trial, sweep_folder) | {f"{TAG}experiment_yaml": yaml_uri},
        description=f"Trial {trial} of {sweep_folder}; its experiment file: {yaml_uri}",
    )


def _version_tags(lines: Sequence[Line], trial: str, sweep_folder: Path) -> dict[str, str]:
    opening, document = lines[0], _model_document(lines, trial)
    verdict, ended = (
        last_line(lines, "sweep_ended") or {},
        last_line(lines, "trial_ended", trial) or {},
    )
    provenance = opening.get("provenance", {})
    experiment = document["experiment"]
    adapter = experiment["method"]["adapter"]
    seeds = {
        "training": experiment["training"]["seed"],
        "search": (opening["experiment"].get("search") or {}).get("seed"),
        "selection": adapter.get("selection_seed"),
    }
    details = {
        "base": document["base"] | provenance.get("base", {}),
        "data": provenance.get("data", {}),
        "code": provenance.get("code", {}),
        "packages": {
            name: version
            for name, version in versions_of(lines, trial).items()
            if name not in {"code", "python", "platform"}
        },
        "seeds": {key: seed for key, seed in seeds.items() if seed is not None},
        "overrides": document["overrides"],
        "measures": document["measures"],
        "gain_interval": ended.get("gain_interval"),
        _TEST.removeprefix(TAG): test_scores(lines, trial),
    }
    return {
        f"{TAG}sweep": sweep_id(lines),
        f"{TAG}trial": trial,
        f"{TAG}folder": str(sweep_folder.resolve()),
        **_verdict_tags(verdict),
        f"{TAG}base_name": str(details["base"].get("name") or details["base"].get("gguf")),
        f"{TAG}base_sha256": str(details["base"].get("sha256")),
        f"{TAG}code_version": str(details["code"].get("version")),
        **{f"{TAG}{key}": json.dumps(redacted_document(v)) for key, v in details.items()},
    }


def _verdict_tags(verdict: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{TAG}reason": verdict.get("reason", ""),
        f"{TAG}decided": str(verdict.get("time", 0.0)),
        _DECIDED_N: str(verdict.get("n", 0)),
    }


_TEST = f"{TAG}test"
"""Tag of a version: what `test_scores` gave."""
_DECIDED_N = f"{TAG}decided_n"
"""Tag of a version: the line of its verdict, by which verdicts of one sweep follow each other."""
_ALIASED = f"{TAG}alias_version"
"""Tag of a registered model: the version that we gave the alias to. Another version has it from
somebody else."""


def test_scores(lines: Sequence[Line], champion: str) -> dict[str, Any] | None:
    """What the first reading of the test data said of a champion.

    Args:
        lines: The sweep's journal.
        champion: The trial.

    Returns:
        `reading`, `examples`, `accuracy`, `gain` and its interval, the score of each task, the
        intervals over each control and over the runner-up; None when they were not read.
    """
    for line in lines:
        if line["event"] == "test_read" and line["reading"] and line["champion"] == champion:
            tasks = lines[0]["experiment"]["tasks"]
            return {
                "reading": line["reading"],
                "examples": sum(line["examples"].values()),
                "accuracy": line["accuracy"][champion],
                "gain": line["gain"][champion],
                "gain_interval": line["gain_intervals"][champion],
                "scores": dict(zip(tasks, line["sides"][champion]["row"], strict=True)),
                "minus": {**line["intervals"][champion], "runner_up": line["runner_up_interval"]},
                "runner_up": line["runner_up"],
            }
    return None


def _move_alias(
    client: MlflowClient,
    model: RegisteredModel,
    version: ModelVersion,
    alias: ModelVersion | None,
    *,
    latest: bool,
) -> str:
    """Give a version the alias, if it is due; say in a sentence what became of it."""
    this = f"{version.tags[f'{TAG}trial']} is version {version.version} of the model {model.name!r}"
    number, ours = str(version.version), model.tags.get(_ALIASED)
    if alias is not None and str(alias.version) == number:
        if ours != number:
            client.set_registered_model_tag(model.name, _ALIASED, number)
        return f"{this} and has the alias `{CHAMPION_ALIAS}`."
    why = _alias_stays(version, alias, ours, latest=latest)
    if why is not None:
        return f"{this}. {why}"
    client.set_registered_model_alias(model.name, CHAMPION_ALIAS, number)
    client.set_registered_model_tag(model.name, _ALIASED, number)
    before = f" instead of version {alias.version}" if alias is not None else ""
    return f"{this} and got the alias `{CHAMPION_ALIAS}`{before}."


def _alias_stays(
    version: ModelVersion, alias: ModelVersion | None, ours: str | None, *, latest: bool
) -> str | None:
    """Why a version does not get the alias; None if it does."""
    by_hand = (
        "Give it to this one in MLflow's pages, or with "
        f"`MlflowClient().set_registered_model_alias({version.name!r}, {CHAMPION_ALIAS!r}, "
        f"{version.version})`."
    )
    if alias is None:
        if ours != str(version.version):
            return None
        return f"Somebody took the alias `{CHAMPION_ALIAS}` from it. {by_hand}"
    if ours is not None and str(alias.version) != ours:
        return (
            f"The alias `{CHAMPION_ALIAS}` stays with version {alias.version}, which somebody gave "
            f"it to. {by_hand}"
        )
    if not latest and _verdict_order(alias, version) > _verdict_order(version, alias):
        return (
            f"The alias `{CHAMPION_ALIAS}` stays with version {alias.version}, which was chosen "
            "later."
        )
    return None


def _verdict_order(version: ModelVersion, other: ModelVersion) -> float:
    """Larger for the later of two verdicts: by their lines in one sweep, by the clock otherwise."""
    same = version.tags.get(f"{TAG}sweep") == other.tags.get(f"{TAG}sweep")
    both = _DECIDED_N in version.tags and _DECIDED_N in other.tags
    return float(version.tags.get(_DECIDED_N if same and both else f"{TAG}decided", 0.0))


# --- finding it again ---------------------------------------------------------------------------


def resolve(reference: str, uri: str, storage: Path, *, cache: Path | None = None) -> Path:
    """The local folder of a registered model, downloaded when it is not on this machine.

    Args:
        reference: `NAME@ALIAS` or `NAME/VERSION`.
        uri: Where MLflow records.
        storage: The storage folder; it may have moved since the model was registered.
        cache: Where downloads are kept; null: `curlora-orchestrator` in the user's cache folder.

    Returns:
        A folder as `write_model_folder` writes it; not to be changed.

    Raises:
        TrackingError: If MLflow cannot be used, or what it names is not there.
    """
    import yaml
    from mlflow.models.model import MLMODEL_FILE_NAME

    with mlflow_errors(uri):
        client = connect(uri)
        version = _find_version(client, reference, storage_identity(uri, storage))
        location = client.get_model_version_download_uri(version.name, version.version)
        there, here = local_path(location), place_in(storage, location)
        if there is not None:
            root = here if here is not None and here.is_dir() else there
            if not root.is_dir():
                raise TrackingError(_gone(reference, root, storage, version))
        else:
            # A location holds one model for ever, so its name stands for the content.
            key = hashlib.sha256(location.encode()).hexdigest()[:16]
            place = (cache or _cache_folder()) / f"{version.name}-{key}"
            root = _downloaded(location, place, uri)
        # `Model.load` takes a path for an address, in which `#` and `%` mean something else.
        described = yaml.safe_load((root / MLMODEL_FILE_NAME).read_text(encoding="utf-8"))
        data = described["flavors"]["python_function"]["data"]
    return root / data


def _gone(reference: str, root: Path, storage: Path, version: ModelVersion) -> str:
    folder = Path(version.tags.get(f"{TAG}folder", "SWEEP")).name
    return (
        f"The files of {reference} are gone: there is no {root}. If its storage folder was moved, "
        f"name the new place with `--storage` (now {storage}); the trial's own adapter may still "
        f"be there as {folder}/{version.tags.get(f'{TAG}trial', 'TRIAL')}."
    )


def _cache_folder() -> Path:
    return user_cache() / "models"


def _downloaded(location: str, place: Path, uri: str) -> Path:
    import mlflow.artifacts

    if not place.is_dir():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.mkdtemp(dir=place.parent)
        except OSError as error:
            raise TrackingError(
                f"The model cannot be kept in {place.parent}: {error.strerror or error}. Set "
                "XDG_CACHE_HOME to a folder that you can write to."
            ) from None
        fetched = mlflow.artifacts.download_artifacts(
            artifact_uri=location, dst_path=scratch, tracking_uri=uri, registry_uri=uri
        )
        # A download that a crash cut short never gets the final name.
        Path(fetched).rename(place)
        shutil.rmtree(scratch, ignore_errors=True)
    return place


def _find_version(client: MlflowClient, reference: str, identity: str) -> ModelVersion:
    match = re.fullmatch(r"(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))", reference)
    if match is None:
        raise UnknownModelError(
            f"A registered model is written NAME@ALIAS or NAME/VERSION, got {reference!r}. "
            f"For example {reference.partition('@')[0].partition('/')[0]}@{CHAMPION_ALIAS}."
        )
    model, name = find_model(client, match["name"], identity)
    if model is None:
        raise UnknownModelError(_unknown_model(client, name))
    aliases = {alias: str(number) for alias, number in model.aliases.items()}
    number = match["version"] or aliases.get(match["alias"])
    versions = _every(
        lambda token: client.search_model_versions(f"name = '{model.name}'", page_token=token)
    )
    known = {str(version.version): version for version in versions}
    if number is None or number not in known:
        named = ", ".join(f"{a} (version {n})" for a, n in sorted(aliases.items())) or "none"
        numbers = ", ".join(sorted(known, key=int)) or "none"
        raise UnknownModelError(
            f"The model {name!r} has no {reference.removeprefix(match['name'])!r}. "
            f"Aliases: {named}. Versions: {numbers}."
        )
    return client.get_model_version(model.name, number)


def _unknown_model(client: MlflowClient, name: str) -> str:
    names = sorted(
        model.name
        for model in _every(lambda token: client.search_registered_models(page_token=token))
    )
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    more = f" and {len(names) - _NAMES_SHOWN} others" if len(names) > _NAMES_SHOWN else ""
    near = suggestion(name, names)
    return f"No registered model {name!r}.{near} Registered models: {shown}{more}."


def champion_record(name: str, uri: str, storage: Path) -> dict[str, Any]:
    """What made the champion of a sweep.

    Args:
        name: The sweep's name, which is the registered model's.
        uri: Where MLflow records.
        storage: The storage folder.

    Returns:
        `model`, `version`, `registered` (seconds since the epoch), `run`, `sweep`, `trial`,
        `folder`, `reason`, `experiment_yaml` (a link), and the documents `base`, `data`, `code`,
        `packages`, `seeds`, `overrides`, `test` (see `test_scores`), `measures` and `gain_interval`
        (both of validation scores).
    """
    with mlflow_errors(uri):
        client = connect(uri)
        identity = storage_identity(uri, storage)
        version = _find_version(client, f"{name}@{CHAMPION_ALIAS}", identity)
    tags = {key.removeprefix(TAG): value for key, value in version.tags.items()}
    record: dict[str, Any] = {
        "model": version.name,
        "version": str(version.version),
        "registered": version.creation_timestamp / 1000,
        "run": version.run_id,
    }
    for key in ("sweep", "trial", "folder", "reason", "experiment_yaml"):
        record[key] = tags.get(key)
    here = storage / Path(str(record["folder"])).name
    if here.is_dir():  # the storage folder may have moved since
        record["folder"] = str(here.resolve())
    for key in ("test", "base", "data", "code", "packages", "seeds", "overrides", "measures",
                "gain_interval"):  # fmt: skip
        record[key] = json.loads(tags.get(key, "null"))
    return record
