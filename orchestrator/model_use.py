"""Using what a sweep has trained: finding it by name, loading it, exporting it, asking it.

A model is named `NAME@champion` or `NAME/VERSION` (the model registry), `SWEEP/TRIAL` (a sweep's
folder), or by the path of a model folder. Files of rows are read as a task's own data are, and
answered into a file that is there whole or not at all.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from orchestrator.journal import JOURNAL_NAME, path_within, read_journal
from orchestrator.model_folder import MODEL_FILE, read_model_document, tasks_of
from orchestrator.model_registry import (
    ADAPTER_FOLDER,
    ADAPTER_MARKER,
    CHAMPION_ALIAS,
    probability_column,
    resolve,
    write_model_folder,
)
from orchestrator.row_values import RowReader, question_columns
from orchestrator.seals import SEAL_FILE, UNSEALED, flaw
from orchestrator.sources import (
    DataError,
    PlacedRow,
    Row,
    canonical_row,
    read_split,
    where_is,
)
from orchestrator.strict_json import read_object
from orchestrator.sweep_view import SweepView
from orchestrator.tasks import (
    ClassificationTask,
    DataSource,
    LanguageModellingTask,
    MultipleChoiceTask,
    TaskSpec,
    suggestion,
)
from orchestrator.tracking_address import DATABASE_NAME, recorded_uri

if TYPE_CHECKING:
    from orchestrator.inference import Prediction, Predictor

_log = logging.getLogger(__name__)

HEADS_FILE = "heads.safetensors"
"""Linear heads beside an adapter: `<task>.weight` (labels, hidden) and `<task>.bias` (labels,)."""
HEAD_LABELS_FILE = "heads.json"
"""What the rows of exported heads stand for."""
PREDICTION = "prediction"
"""The column of the answer in a file of predictions."""
BATCH_ROWS = 256
"""Rows answered between two words of progress."""
_WRITTEN = (".csv", ".jsonl")


class ModelUseError(ValueError):
    """A model or file that cannot be used as it was asked; the message says why."""


# --- finding -------------------------------------------------------------------------------------


def load(
    reference: str,
    storage: Path | str = "runs",
    *,
    tracking_uri: str | None = None,
    base: Path | str | None = None,
) -> Predictor:
    """Load a trained model by name.

    Args:
        reference: `NAME@champion`, `NAME/VERSION`, `SWEEP/TRIAL`, or the path of a model folder.
        storage: The folder that sweeps are kept in.
        tracking_uri: Where MLflow records; null: as the sweep says, else SQLite in `storage`.
        base: Where the base is now, if it was moved since.

    Returns:
        A predictor: `tasks` names what can be asked, `predict(task, rows)` answers.
    """
    with model_folder(reference, Path(storage), tracking_uri) as folder:
        return load_folder(folder, Path(base) if base is not None else None)


def load_folder(folder: Path, base: Path | None = None) -> Predictor:
    """Load base and adapter without the progress bars and warnings that are not for the user."""
    from transformers.utils import logging

    from orchestrator.inference import Predictor

    logging.disable_progress_bar()
    with warnings.catch_warnings():
        # PEFT asks transformers for a property under its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return Predictor.from_folder(folder, base=base)


@contextmanager
def model_folder(
    reference: str,
    storage: Path,
    tracking_uri: str | None,
    *,
    note: Callable[[str], None] = _log.warning,
) -> Iterator[Path]:
    """The folder of a model, `adapter/` and `model.json`, for as long as the context lasts.

    Args:
        reference: `NAME@champion`, `NAME/VERSION`, `SWEEP/TRIAL`, or the path of a model folder.
        storage: The folder that sweeps are kept in.
        tracking_uri: Where MLflow records; null: see `registry_uri`.
        note: Told when nothing vouches for the model, as it was made by an earlier version.

    Yields:
        The folder, found to be as it was written; not to be changed.

    Raises:
        ModelUseError: If the reference names no model, or the model was damaged.
    """
    with _found_folder(reference, storage, tracking_uri) as folder:
        wrong = flaw(folder)
        if wrong not in {None, UNSEALED}:
            raise ModelUseError(
                f"The model {reference} in {folder} is not as it was written: {wrong}. It is not "
                "used; restore it from a copy, or name the trial that made it as SWEEP/TRIAL."
            )
        document = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        if wrong == UNSEALED or document.get("adapter_sha256") is None:
            note(f"{reference} was made before checksums; it is not verified")
        yield folder


@contextmanager
def _found_folder(reference: str, storage: Path, tracking_uri: str | None) -> Iterator[Path]:
    if (Path(reference) / MODEL_FILE).is_file():
        yield Path(reference)
        return
    owner, slash, trial = reference.partition("/")
    version = slash and trial.isdigit()  # no trial is named by a number alone
    own = "@" not in reference and slash and not version
    if own and (storage / owner / JOURNAL_NAME).is_file():
        with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
            yield _trial_folder(storage / owner, trial, Path(scratch) / "model")
        return
    if "@" not in reference and not version:
        raise ModelUseError(
            f"{reference!r} names no model. Write NAME@{CHAMPION_ALIAS} for a registered model, "
            f"SWEEP/TRIAL for a trial in {storage}, or the path of a model folder."
        )
    name = re.split("[@/]", reference, maxsplit=1)[0]
    yield resolve(reference, registry_uri(name, storage, tracking_uri), storage)


def _trial_folder(sweep: Path, trial: str, target: Path) -> Path:
    lines = read_journal(sweep)
    view = SweepView.of(lines)
    found = view.everything.get(trial)
    if found is None:
        known = list(view.everything)
        raise ModelUseError(
            f"No trial {trial!r} in sweep {view.name!r}.{suggestion(trial, known)} "
            f"Its trials: {', '.join(known) or 'none yet'}."
        )
    if not found.adapter:
        raise ModelUseError(
            f"Trial {trial!r} of {sweep.name!r} has no adapter: its state is {found.state.lower()}."
        )
    adapter = path_within(sweep, found.adapter)
    if not adapter.is_dir():
        raise ModelUseError(
            f"The adapter of '{sweep.name}/{trial}' is gone: there is no {adapter}."
        )
    return write_model_folder(target, adapter_folder=adapter, lines=lines, trial=trial)


def registry_uri(name: str, storage: Path, tracking_uri: str | None) -> str:
    """Where the model registry is: as given, as the sweep of that name says, or in storage.

    Args:
        name: The model's name, which is its sweep's.
        storage: The folder that sweeps are kept in.
        tracking_uri: What the user gave.

    Returns:
        MLflow's address.

    Raises:
        ModelUseError: If there is no registry.
    """
    lines = read_journal(storage / name) if "/" not in name else []
    experiment = SweepView.of(lines).experiment
    own = tracking_uri or (experiment.get("tracking") or {}).get("uri")
    if not own and not (storage / DATABASE_NAME).is_file():
        again = f" (`orchestrate report {name}` makes it anew from the journal)" if lines else ""
        raise ModelUseError(
            f"No model registry in {storage}{again}. Give the folder of the sweep with "
            "`--storage`, or MLflow's address with `--tracking-uri`."
        )
    return recorded_uri(experiment, storage, tracking_uri)


def asked_tasks(folder: Path) -> dict[str, TaskSpec]:
    """The tasks of a model folder that can be asked, by name."""
    parsed = tasks_of(read_model_document(folder), folder)
    return {n: t for n, t in parsed.items() if not isinstance(t, LanguageModellingTask)}


# --- exporting -----------------------------------------------------------------------------------


def export(folder: Path, form: str, to: Path, base: Path | None = None) -> list[str]:
    """Write a model for use elsewhere.

    Args:
        folder: The model folder.
        form: `adapter` (the model folder itself), `lora` (a plain LoRA adapter, loadable without
            this package) or `merged` (a whole model, base included).
        to: A folder that is empty.
        base: Where the base is now, if it was moved since.

    Returns:
        Names of tasks whose linear heads were written beside it.
    """
    heads = folder / ADAPTER_FOLDER / HEADS_FILE
    labels = head_labels(folder) if heads.is_file() else {}
    if form == "adapter":
        shutil.copytree(folder, to, dirs_exist_ok=True)
        return list(labels)
    if form == "lora":
        _export_lora(folder, to, base)
    else:
        from curlora.permissions import open_to_others

        predictor = load_folder(folder, base)
        model = predictor.model
        whole = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        whole.save_pretrained(to)
        open_to_others(to)
        predictor.tokenizer.save_pretrained(to)
    if labels:
        shutil.copyfile(heads, to / HEADS_FILE)
        text = json.dumps({name: {"labels": values} for name, values in labels.items()}, indent=2)
        (to / HEAD_LABELS_FILE).write_text(text + "\n", encoding="utf-8")
    return list(labels)


def _export_lora(folder: Path, to: Path, base: Path | None) -> None:
    adapter = folder / ADAPTER_FOLDER
    if _is_plain_lora(adapter / "adapter_config.json"):
        for file in adapter.iterdir():
            if file.name not in {HEADS_FILE, ADAPTER_MARKER, SEAL_FILE}:
                shutil.copy2(file, to / file.name)
        return
    from curlora import export_lora

    try:
        export_lora(load_folder(folder, base).model, to)
    except (TypeError, ValueError) as error:
        raise ModelUseError(
            f"This model cannot be exported as a LoRA adapter: {error} `--as merged` writes "
            "the whole model."
        ) from None


def _is_plain_lora(config_file: Path) -> bool:
    """Whether an adapter is a LoRA that needs nothing but its own two factors to be loaded."""
    if not config_file.is_file():
        return False
    config = read_object(config_file, ModelUseError, "Save or copy the adapter again.")
    starts = config.get("init_lora_weights", True)
    plain = isinstance(starts, bool) or starts == "gaussian"
    return config.get("peft_type") == "LORA" and plain and not config.get("use_dora")


def head_labels(folder: Path) -> dict[str, list[str]]:
    """For each task with a linear head, the label that each row of its weight stands for."""
    return {
        name: task.label_values
        for name, task in asked_tasks(folder).items()
        if isinstance(task, ClassificationTask) and task.head == "linear"
    }


# --- predicting over files -----------------------------------------------------------------------


def check_files(source: Path, output: Path, *, force: bool) -> None:
    """Refuse files that cannot be read or written, before a model is loaded.

    Args:
        source: The file with the rows.
        output: The file to write.
        force: Whether an existing output may be replaced.

    Raises:
        ModelUseError: If one of them will not do.
    """
    if not source.is_file():
        beside = [p.name for p in source.parent.iterdir()] if source.parent.is_dir() else []
        raise ModelUseError(f"`--input` {source}: no such file.{suggestion(source.name, beside)}")
    if output.suffix.lower() not in _WRITTEN:
        raise ModelUseError(
            f"`--output` should end in {' or '.join(_WRITTEN)}, got {output.name!r}."
        )
    if output.exists() and output.resolve() == source.resolve():
        raise ModelUseError(f"`--output` {output} is the input itself. Name another file.")
    if output.is_dir():
        raise ModelUseError(f"`--output` {output} is a folder. Name a file.")
    if output.exists() and not force:
        raise ModelUseError(f"`--output` {output} is there already. Add --force to replace it.")
    if not output.absolute().parent.is_dir():
        raise ModelUseError(f"`--output` {output}: there is no folder {output.parent}. Make it.")


def read_rows(
    source: Path, name: str, task: TaskSpec
) -> tuple[list[Row], list[dict[str, Any] | None]]:
    """The rows of a file, as they stand there and as a task asks them.

    Args:
        source: A file ending in .csv, .tsv, .jsonl (each also with .gz) or .parquet.
        name: The task's name, for messages.
        task: The task. Its columns are looked for under its own names, then under those that its
            data source gives them.

    Returns:
        The rows as read, and what is asked, one for one; None for a row that lacks something of
        the question.

    Raises:
        ModelUseError: If no row has a column that is asked for, or one has a column that the
            answer would need.
    """
    rows = read_split(DataSource(files=str(source)), "train") or []
    wanted = question_columns(task)
    reader = RowReader(task)
    asked: list[dict[str, Any] | None] = []
    for row in rows:
        where = where_is(row)
        taken = [c for c in row if c == PREDICTION or c.startswith(probability_column(""))]
        if taken:
            raise ModelUseError(
                f"{where} has a column {taken[0]!r} already, and the answers are written under "
                f"such names ({PREDICTION}, {probability_column('LABEL')}). Rename it."
            )
        question = _question(row, wanted, task)
        placed = row.with_values(question) if isinstance(row, PlacedRow) else question
        asked.append(None if reader.missing(placed, answers=False) else question)
    if rows and not any(asked):
        question = _question(rows[0], wanted, task)
        for column in wanted:
            if question[column] is None and not any(column in row for row in rows):
                raise ModelUseError(_no_column(rows[0], column, name))
    return rows, asked


def _question(row: Row, wanted: Sequence[str], task: TaskSpec) -> dict[str, Any]:
    """The columns of a question, under the task's names or its source's; None for missing ones."""
    found: dict[str, Any] = {}
    for column in wanted:
        if column in row:
            found[column] = row[column]
        else:
            mapped = {column: task.data.columns[column]} if column in task.data.columns else {}
            with suppress(DataError):  # what is not there under either name is missing
                found[column] = canonical_row(row, mapped, task.data.constants).get(column)
    found = {column: found.get(column) for column in wanted}
    if isinstance(task, MultipleChoiceTask) and found[task.choices_column] is not None:
        found[task.choices_column] = _choices(found[task.choices_column], where_is(row))
    return found


def _no_column(row: Row, column: str, name: str) -> str:
    known = [str(column) for column in row]
    return (
        f"{where_is(row)} has no column {column!r}, which the task {name!r} reads, nor has any "
        f"other row.{suggestion(column, known)} Its columns: {', '.join(known)}."
    )


def _choices(value: Any, where: str) -> list[Any]:
    """A list of choices; in a CSV file it is written as JSON."""
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):
            value = json.loads(value)
    if not isinstance(value, list) or len(value) < 2:
        raise ModelUseError(
            f"{where}: the choices should be a list of at least two, in a CSV file written as "
            f"""JSON such as ["a cat", "a dog"]; got {value!r}."""
        )
    return value


def predict_rows(
    predictor: Predictor,
    name: str,
    task: TaskSpec,
    asked: Sequence[Mapping[str, Any] | None],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """The columns that are added to each row.

    Args:
        predictor: The model.
        name: The task's name.
        task: The task.
        asked: The rows, as `read_rows` gives them; None gets no answer.
        progress: If given, told how many rows are done, of how many.

    Yields:
        `prediction`, and `probability_<label>` for every label (for multiple choice
        `probability_<i>` for the row's choice i, counted from 0).
    """
    for start in range(0, len(asked), BATCH_ROWS):
        part = asked[start : start + BATCH_ROWS]
        questions = [row for row in part if row is not None]
        answers = iter(predictor.predict(name, questions) if questions else ())
        for row in part:
            yield {PREDICTION: None} if row is None else _columns(next(answers), task)
        if progress is not None:
            progress(start + len(part), len(asked))


def _columns(answer: Prediction, task: TaskSpec) -> dict[str, Any]:
    chances = answer.by_position
    labels = task.label_values if isinstance(task, ClassificationTask) else range(len(chances))
    named = zip((probability_column(str(label)) for label in labels), chances, strict=True)
    return {PREDICTION: answer.label, **{column: round(value, 6) for column, value in named}}


def added_columns(task: TaskSpec, asked: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """The names of all columns that `predict_rows` adds."""
    labels: list[str] = []
    if isinstance(task, ClassificationTask):
        labels = task.label_values
    elif isinstance(task, MultipleChoiceTask):
        most = max((len(row[task.choices_column]) for row in asked if row), default=0)
        labels = [str(index) for index in range(most)]
    return [PREDICTION, *map(probability_column, labels)]


def write_rows(
    output: Path,
    rows: Sequence[Row],
    added: Iterator[Mapping[str, Any]],
    new_columns: Sequence[str],
) -> None:
    """Write rows with what is added to them; the file is there whole or not at all.

    Args:
        output: A file ending in .csv or .jsonl.
        rows: The rows as they were read.
        added: The columns added to each, in the same order.
        new_columns: The names of the added columns, for the header of a CSV file.
    """
    names = list(dict.fromkeys([*(name for row in rows for name in row), *new_columns]))
    # As open as any new file, which one of `tempfile` is not.
    half = output.absolute().with_name(f".{output.name}-{uuid.uuid4().hex}")
    try:
        with half.open("x", encoding="utf-8", newline="") as file:
            whole = ({**row, **more} for row, more in zip(rows, added, strict=True))
            if output.suffix.lower() == ".csv":
                _write_csv(file, whole, names)
            else:
                _write_lines(file, whole)
            file.flush()
            os.fsync(file.fileno())
        half.replace(output)
    finally:
        half.unlink(missing_ok=True)


def _write_lines(file: IO[str], rows: Iterator[Mapping[str, Any]]) -> None:
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_csv(file: IO[str], rows: Iterator[Mapping[str, Any]], names: Sequence[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def telling(say: Callable[[str], None], *, every_s: float) -> Callable[[int, int], None]:
    """A progress function that says one line now and then, and one at the end.

    Args:
        say: Told each line.
        every_s: Least seconds between two lines.

    Returns:
        The function for `predict_rows`.
    """
    begun = time.monotonic()
    said = begun

    def progress(done: int, of: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done < of and now - said < every_s:
            return
        said = now
        rate = done / max(now - begun, 1e-9)
        say(f"{done:,} of {of:,} rows, {rate:,.1f} a second")

    return progress
