"""The command line: `orchestrate`.

Tables are for people and go to the terminal; `--json` is for programs. A mistake of the user's is
answered with one message on stderr and exit code 2, and never with a traceback; what nobody
expected shows its traceback. Heavy packages are imported by the commands that need them.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
import shlex
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, ParamSpec

import typer
from rich.console import Console
from rich.text import Text

from orchestrator import display, machine, model_use, sweep_documents
from orchestrator.cluster import ClusterError
from orchestrator.experiment import (
    Experiment,
    ExperimentError,
    LoadedExperiment,
    load_experiment,
    not_a_folder,
)
from orchestrator.formatting import show, show_interval, show_setting
from orchestrator.journal import (
    JOURNAL_NAME,
    JournalError,
    Line,
    is_being_written,
    read_journal,
    without_nan,
)
from orchestrator.live_display import LiveDisplay
from orchestrator.model_folder import MODEL_FILE, ModelFolderError
from orchestrator.model_registry import (
    AdapterFolderError,
    UnknownModelError,
    champion_record,
)
from orchestrator.model_use import ModelUseError
from orchestrator.sources import DataError, where_is
from orchestrator.strict_json import cut, half_character
from orchestrator.sweep_view import SweepView, TrialView
from orchestrator.tasks import TaskFileError, suggestion
from orchestrator.tracking_address import TrackingError, is_database, recorded_uri

if TYPE_CHECKING:
    pass

MISTAKE = 2
"""Exit code of a mistake in the command or in a file that it names."""
FAILED = 1
"""Exit code of a command that did its work and found that something failed."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""
WIDTH_WITHOUT_TERMINAL = 100
PROGRESS_SECONDS = 5.0
"""Least seconds between two lines that say how far a file of predictions is."""

_LATER = (
    ("orchestrator.base_facts", "BaseFilesError"),
    ("orchestrator.base_model", "ModelError"),
    ("orchestrator.inference", "PredictionError"),
    ("orchestrator.preflight", "PreflightError"),
    ("orchestrator.sweep", "SweepError"),
    ("orchestrator.trial_query", "QueryError"),
    ("orchestrator.browser", "BrowserError"),
)
"""Errors for people from rooms that are imported late."""

app = typer.Typer(
    name="orchestrate",
    help="Search for the best way to teach a language model one task after another.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs_app = typer.Typer(help="Look at sweeps and their trials.", no_args_is_help=True)
champion_app = typer.Typer(help="Look at champions in the model registry.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")
app.add_typer(champion_app, name="champion")
tasks_app = typer.Typer(help="Look at task files and the data they read.", no_args_is_help=True)
app.add_typer(tasks_app, name="tasks")

File = Annotated[Path, typer.Argument(help="The experiment file (YAML).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]


def _folder(storage: str | Path) -> Path:
    """The storage folder of an option; an address is refused as in an experiment file."""
    wrong = not_a_folder(str(storage))
    if wrong is not None:
        raise typer.BadParameter(wrong)
    return Path(storage)


Storage = Annotated[
    Path,
    typer.Option(help="The folder that sweeps are kept in.", parser=_folder, metavar="DIR"),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        help="Where MLflow records; by default SQLite in the storage folder. An address with a "
        "password is better given in the environment, which other users cannot read.",
        envvar="ORCHESTRATOR_TRACKING_URI",
    ),
]
MovedBase = Annotated[
    Path | None,
    typer.Option(
        "--base",
        help="Where the base model is now, if it was moved since training.",
        metavar="DIR",
        show_default=False,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="A running Ray cluster, for example auto; by default this machine."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        envvar="ORCHESTRATOR_DATA_ROOT",
        help="Read every task from DIR/<name>/<split>.jsonl[.gz] where that folder exists.",
        metavar="DIR",
    ),
]
New = Annotated[bool, typer.Option("--new", help="Start anew instead of continuing.")]
Retry = Annotated[
    bool, typer.Option("--retry-failed", help="Run trials that failed again, from their start.")
]

_DEFAULT_STORAGE = Path("./runs")
_Parameters = ParamSpec("_Parameters")


class UsageError(ValueError):
    """A command that cannot be carried out as it was given; the message says why."""


def main() -> None:
    """Run the command line."""
    app()


# --- messages and output -------------------------------------------------------------------------


def _mistakes() -> tuple[type[Exception], ...]:
    """Errors whose message is written for the user. A room not imported has raised none."""
    later = tuple(
        getattr(sys.modules[room], name)
        for room, name in _LATER
        if room in sys.modules and hasattr(sys.modules[room], name)
    )
    return (
        UsageError, ModelUseError, ExperimentError, TaskFileError, DataError, JournalError,
        ClusterError, TrackingError, UnknownModelError, AdapterFolderError, ModelFolderError,
        *later,
    )  # fmt: skip


def answers_mistakes(command: Callable[_Parameters, None]) -> Callable[_Parameters, None]:
    """Let a command answer the user's mistakes with one message and exit code 2.

    Args:
        command: The command.

    Returns:
        The same command for Typer.
    """

    @functools.wraps(command)
    def answered(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except _mistakes() as error:
            _stop(str(error), MISTAKE)

    return answered


def _stop(message: str, code: int) -> NoReturn:
    # A name of a file may hold bytes that no encoding of the terminal can write.
    shown = message.encode("utf-8", "backslashreplace").decode()
    typer.echo(f"orchestrate: {shown}", err=True)
    raise typer.Exit(code)


def _console(*, stderr: bool = False) -> Console:
    """A console of the terminal's width, of 100 columns where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty() or "COLUMNS" in os.environ:
        return Console(stderr=stderr)
    return Console(stderr=stderr, width=WIDTH_WITHOUT_TERMINAL)


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(without_nan(document), default=str, allow_nan=False))


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(importlib.metadata.version("curlora-orchestrator"))
        except importlib.metadata.PackageNotFoundError:
            typer.echo("not installed (run from a checkout)")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# --- before and during a sweep -------------------------------------------------------------------


def _load(file: Path, data_root: Path | None, *, begun: bool = False) -> LoadedExperiment:
    _check_data_root(data_root)
    return (
        load_experiment(file, data_root, _has_begun) if begun else load_experiment(file, data_root)
    )


def _has_begun(experiment: Experiment) -> bool:
    from orchestrator.sweep import has_begun

    return has_begun(experiment)


def _check_data_root(data_root: Path | None) -> None:
    if data_root is not None and not data_root.is_dir():
        raise UsageError(f"`--data-root` (or ORCHESTRATOR_DATA_ROOT): {data_root} is no folder.")


@app.command()
@answers_mistakes
def plan(
    file: File,
    data_root: DataRoot = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Say what a file asks for (trials, tokens, memory, time, room) and start nothing."""
    loaded = _load(file, data_root)
    from orchestrator import plan as planning

    kind = "sweep" if loaded.experiment.search else "run"
    planned = planning.make_plan(loaded, _machine(loaded, address), kind=kind)
    if as_json:
        _print_json(planning.as_document(planned))
    else:
        _console().print(planning.render(planned))
    if planned.problems:
        raise typer.Exit(FAILED)


def _machine(loaded: LoadedExperiment, address: str | None) -> Any:
    from orchestrator.plan import Machine
    from orchestrator.preflight import free_disk

    storage = Path(loaded.experiment.storage).expanduser()
    if address is not None:
        from orchestrator.cluster import connected

        with connected(address) as resources:
            cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        return Machine(cpus, gpus, memory=None, disk=None, here=False)
    import torch

    here = machine.memory()
    return Machine(
        cpus=machine.usable_cores(),
        gpus=torch.cuda.device_count(),
        memory=here[1] if here else None,
        disk=free_disk(storage),
    )


@app.command()
@answers_mistakes
def sweep(
    file: File,
    new: New = False,
    retry_failed: Retry = False,
    address: Address = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Search the file's space, continuing what an earlier call began; name front and champion."""
    options = {"new": new, "retry_failed": retry_failed, "address": address}
    _run("sweep", file, options, data_root, as_json=as_json)


@app.command()
@answers_mistakes
def run(
    file: File,
    new: New = False,
    retry_failed: Retry = False,
    address: Address = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Run one trial with the file's own method."""
    options = {"new": new, "retry_failed": retry_failed, "address": address}
    _run("run", file, options, data_root, as_json=as_json)


def _run(
    kind: Literal["sweep", "run"],
    file: Path,
    chosen: Mapping[str, Any],
    data_root: Path | None,
    *,
    as_json: bool,
) -> None:
    loaded = _load(file, data_root, begun=kind == "sweep" and not chosen["new"])
    if kind == "sweep" and loaded.experiment.search is None:
        raise UsageError(
            f"{file}: there is no `search`, so there is nothing to sweep. Add one, or try the "
            f"file's own method with `orchestrate run {file}`."
        )
    from orchestrator.sweep import SweepInterruptedError, SweepOptions, run_sweep

    options = SweepOptions(**chosen, data_root=data_root, kind=kind)
    shown = LiveDisplay(_console(stderr=True))
    try:
        with shown:
            outcome = run_sweep(loaded, options, shown)
    except (KeyboardInterrupt, SweepInterruptedError):
        again = _command(kind, file, address=options.address, data_root=data_root, as_json=as_json)
        _stop(
            _interrupted(shown.view, Path(loaded.experiment.storage).expanduser(), again),
            INTERRUPTED,
        )
    console = _console(stderr=as_json)
    display.print_on(
        console, display.render_outcome(outcome.lines, outcome.folder, width=console.width)
    )
    if as_json:
        _print_json(sweep_documents.outcome_document(outcome.lines, outcome.folder))
    if outcome.complaint:
        _stop(outcome.complaint, FAILED)
    view = SweepView.of(outcome.lines)
    if not any(trial.state == "COMPLETE" for trial in view.trials):
        _stop(_nothing_completed(view, outcome.folder), FAILED)


def _nothing_completed(view: SweepView, folder: Path) -> str:
    failed = [trial for trial in view.trials if trial.state == "FAILED"]
    if not failed:
        return "no trial was completed; the table above says why."
    reason, count = Counter(trial.reason for trial in failed).most_common(1)[0]
    logged = [trial for trial in failed if trial.reason == reason and trial.log]
    log = sweep_documents.log_path(logged[0], folder) if logged else None
    return (
        f"no trial was completed; {count} of {len(failed)} failed with: {reason.rstrip('.')}."
        + (f" Log: {log}." if log else "")
        + " Mend the cause, then give the same command with `--retry-failed`."
    )


def _command(
    kind: str, file: Path, *, address: str | None, data_root: Path | None, as_json: bool
) -> str:
    words = [sweep_documents.program(), kind, str(file)]
    words += ["--address", address] if address else []
    words += ["--data-root", str(data_root)] if data_root else []
    return shlex.join(words + (["--json"] if as_json else []))


def _interrupted(view: SweepView, storage: Path, again: str) -> str:
    if not view.name:
        return f"stopped before anything was recorded. Start again with:\n  {again}"
    done = len(view.finished)
    return (
        f"stopped. {done} of {view.total} trials are finished and kept in {storage / view.name}; "
        f"those that were running will start again. Continue with:\n  {again}"
    )


@app.command()
@answers_mistakes
def methods(as_json: Json = False) -> None:
    """List the adapters, the retentions and the presets that a file may name."""
    from orchestrator import method_list

    found = method_list.list_methods()
    if as_json:
        _print_json(found)
    else:
        display.print_on(_console(), method_list.render(found))


# --- tasks ---------------------------------------------------------------------------------------

_TASK_FOLDERS = (Path("experiments/tasks"), Path("tasks"))


@tasks_app.command("list")
@answers_mistakes
def tasks_list(as_json: Json = False) -> None:
    """List the known tasks with their kind and description."""
    from orchestrator import task_check

    found, wrong = task_check.list_tasks(_TASK_FOLDERS)
    for message in wrong:
        typer.echo(f"orchestrate: left out: {message}", err=True)
    if as_json:
        _print_json(found)
    elif found:
        _console().print(task_check.render_list(found))
    else:
        places = " or ".join(str(folder) for folder in _TASK_FOLDERS)
        typer.echo(f"No task files in {places}. docs/tasks.md says how to write one.")


@tasks_app.command("check")
@answers_mistakes
def tasks_check(
    task: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME", help="A task file, or the name of a task.", show_default=False
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="EXPERIMENT|MODEL",
            help="Count tokens with the tokenizer of an experiment file or of a model.",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Show a task's prompts, splits, labels and what looks wrong, before anything is trained."""
    _check_data_root(data_root)
    from orchestrator import task_check
    from orchestrator.sources import at_data_root, naming_file
    from orchestrator.tasks import find_task_file, load_task

    file = find_task_file(task, list(_TASK_FOLDERS))
    spec = at_data_root(load_task(file), data_root)
    tokenizer, max_length, vocabulary = _tokenizer(model, data_root)
    with naming_file(file):
        checked = task_check.check_task(spec, tokenizer, max_length, vocabulary=vocabulary)
    if as_json:
        _print_json(task_check.as_document(checked))
    else:
        _console().print(task_check.render(checked), crop=False)


def _tokenizer(model: str | None, data_root: Path | None) -> tuple[Any, int | None, int | None]:
    """The tokenizer of an experiment file or of a model, and the limits of what it writes.

    Returns:
        The tokenizer, the tokens an example may have, and the tokens that the base has; all None
        where no model is named, the last where the base cannot be read.
    """
    if model is None:
        return None, None, None
    from orchestrator.base_facts import vocabulary
    from orchestrator.base_model import load_tokenizer
    from orchestrator.experiment import ModelSpec, TrainingSpec

    if model.endswith((".yaml", ".yml")):
        experiment = load_experiment(Path(model), data_root).experiment
        spec, max_length = experiment.model, experiment.training.max_length
        return load_tokenizer(spec), max_length, vocabulary(spec)
    spec = ModelSpec(gguf=model) if model.endswith(".gguf") else ModelSpec(name=model)
    return load_tokenizer(spec), TrainingSpec().max_length, vocabulary(spec)


# --- looking at sweeps ---------------------------------------------------------------------------


def _folders(storage: Path) -> list[Path]:
    """Folders with a journal, the one that was begun first first."""
    if not storage.is_dir():
        return []
    journals = [folder / JOURNAL_NAME for folder in storage.iterdir() if folder.is_dir()]
    return [journal.parent for journal in sorted(filter(Path.is_file, journals), key=_begun)]


def _begun(journal: Path) -> tuple[float, str]:
    with journal.open("rb") as lines:
        first = lines.readline()
    found = re.search(rb'"time":\s*([0-9.]+)', first)
    return (float(found.group(1)) if found else 0.0, journal.parent.name)


def _lines_of(sweep_name: str, storage: Path) -> tuple[Path, list[Line]]:
    folder = storage / sweep_name
    lines = read_journal(folder)
    if not lines:
        known = [found.name for found in _folders(storage)]
        raise UsageError(
            f"No sweep {sweep_name!r} in {storage}.{suggestion(sweep_name, known)} "
            f"Sweeps there: {', '.join(known) or 'none'}."
        )
    return folder, lines


def _trial_of(view: SweepView, name: str) -> TrialView:
    if name not in view.everything:
        known = list(view.everything)
        raise UsageError(
            f"No trial {name!r} in sweep {view.name!r}.{suggestion(name, known)} "
            f"Its trials: {', '.join(known) or 'none yet'}."
        )
    return view.everything[name]


@runs_app.command("list")
@answers_mistakes
def runs_list(
    sweep_name: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="List the trials of this sweep.")
    ] = None,
    sweep_option: Annotated[
        str | None, typer.Option("--sweep", help="The same as SWEEP.", metavar="SWEEP")
    ] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            "--filter",
            help="Only trials for which this holds: 'gain>0.05 and method.adapter.kind=curlora'.",
        ),
    ] = None,
    order: Annotated[
        str | None, typer.Option("--sort", help="By a measure or setting; -NAME: largest first.")
    ] = None,
    storage: Storage = _DEFAULT_STORAGE,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the trials as CSV.")] = False,
) -> None:
    """List the sweeps, oldest first, or the trials of one."""
    if as_json and as_csv:
        raise UsageError("`--json` and `--csv` exclude each other; give one.")
    wanted = sweep_name or sweep_option
    if wanted is not None:
        _list_trials(wanted, storage, conditions, order, as_json=as_json, as_csv=as_csv)
        return
    if conditions or order or as_csv:
        known = ", ".join(found.name for found in _folders(storage)) or "none"
        raise UsageError(
            "`--filter`, `--sort` and `--csv` are for the trials of one sweep; name it: "
            f"`orchestrate runs list SWEEP ...`. Sweeps in {storage}: {known}."
        )
    console = _console()
    rows: list[dict[str, Any]] = []
    for folder in _folders(storage):
        try:
            rows.append(sweep_documents.sweep_row(SweepView.of(read_journal(folder)), folder))
        except JournalError as error:
            typer.echo(f"orchestrate: left out: {error}", err=True)
    if as_json:
        _print_json(rows)
    elif rows:
        display.print_on(console, display.render_sweeps(rows, now=time.time()))
    else:
        typer.echo(f"No sweeps in {storage}. Start one with `orchestrate sweep FILE`.")


def _list_trials(
    sweep_name: str,
    storage: Path,
    conditions: str | None,
    order: str | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    from orchestrator import trial_query

    folder, lines = _lines_of(sweep_name, storage)
    view = SweepView.of(lines)
    trials = trial_query.select(view, conditions=conditions, order=order)
    if as_json:
        _print_json([sweep_documents.trial_row(view, trial, folder) for trial in trials])
    elif as_csv:
        # As bytes: the lines' ends must reach a file or a pipe as they are.
        sys.stdout.buffer.write(trial_query.to_csv(view, trials).encode())
        sys.stdout.flush()
    elif trials or not conditions:
        console = _console()
        display.print_on(console, display.render_trials(view, console.width, trials))
    else:
        typer.echo(f"None of the {len(view.trials)} trials of {sweep_name} fulfils the filter.")


@runs_app.command("diff")
@answers_mistakes
def runs_diff(
    left: Annotated[str, typer.Argument(help="SWEEP/TRIAL, or SWEEP.", show_default=False)],
    right: Annotated[str, typer.Argument(help="What to compare it with.", show_default=False)],
    storage: Storage = _DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show what differs between two trials, or between two sweeps and their best trials."""
    from orchestrator import run_diff

    if ("/" in left) != ("/" in right):
        raise UsageError(
            f"Two trials (SWEEP/TRIAL) or two sweeps can be compared, got {left!r} and {right!r}."
        )
    (left_view, left_trial), (right_view, right_trial) = (
        _view_and_trial(name, storage) for name in (left, right)
    )
    if left_trial is None or right_trial is None:
        document = run_diff.diff_sweeps(left_view, right_view)
    else:
        document = run_diff.diff_trials((left_view, left_trial), (right_view, right_trial))
    if as_json:
        _print_json(document)
    else:
        display.print_on(_console(), display.render_diff(document))


def _view_and_trial(name: str, storage: Path) -> tuple[SweepView, TrialView | None]:
    sweep_name, slash, trial = name.partition("/")
    view = SweepView.of(_lines_of(sweep_name, storage)[1])
    # Two folders may hold sweeps of one name; the folder is what the user typed.
    view.name = sweep_name
    return view, _trial_of(view, trial) if slash else None


@runs_app.command("show")
@answers_mistakes
def runs_show(
    sweep_name: Annotated[str, typer.Argument(metavar="SWEEP", show_default=False)],
    trial: Annotated[str | None, typer.Argument(help="One of its trials, for all of it.")] = None,
    storage: Storage = _DEFAULT_STORAGE,
    svg: Annotated[
        Path | None,
        typer.Option(help="Draw a sweep's table into this SVG file.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a sweep as it showed itself at its end, or everything about one trial."""
    folder, lines = _lines_of(sweep_name, storage)
    console = _console()
    if svg is not None:
        svg.write_text(display.outcome_svg(lines, folder), encoding="utf-8")
    if trial is None:
        if as_json:
            _print_json(sweep_documents.outcome_document(lines, folder))
        else:
            shown = display.render_outcome(lines, folder, width=console.width)
            display.print_on(console, shown)
        return
    view = SweepView.of(lines)
    found = _trial_of(view, trial)
    if as_json:
        _print_json(sweep_documents.trial_document(view, found, folder))
    else:
        display.print_on(console, display.render_trial(view, found, folder))


# --- in a browser --------------------------------------------------------------------------------


def _uri_of(lines: list[Line], storage: Path, tracking_uri: str | None) -> str:
    """Where MLflow records a sweep: as given, as its experiment says, or in storage."""
    return recorded_uri(SweepView.of(lines).experiment, storage, tracking_uri)


@app.command()
@answers_mistakes
def report(
    sweep_name: Annotated[str, typer.Argument(metavar="SWEEP", show_default=False)],
    storage: Storage = _DEFAULT_STORAGE,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to; by default `report` in the sweep's folder.", metavar="DIR"),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a sweep's report: one HTML page that needs no network, and its pictures as PNG."""
    folder, lines = _lines_of(sweep_name, storage)
    from orchestrator.report import write_report

    try:
        page = write_report(lines, folder, output)
    except OSError as error:
        where = output or folder / "report"
        raise UsageError(
            f"The report cannot be written to {where}: {error.strerror or error}. Name another "
            "folder with `--output DIR`."
        ) from None
    typer.echo(f"Wrote {page}, to be opened in any browser: {page.resolve().as_uri()}")
    if is_being_written(folder):
        typer.echo("The sweep is running, and attaches its report to MLflow itself at its end.")
        return
    from orchestrator.tracking import Projection

    try:
        projection = Projection(_uri_of(lines, storage, tracking_uri), folder)
        projection.catch_up(lines, running=False)
        # Only what `report` itself writes goes there: another folder may hold other files.
        own = page if output is None else write_report(lines, folder)
        projection.attach(own.parent)
    except (TrackingError, OSError) as error:
        typer.echo(f"Not attached to MLflow: {error}", err=True)
    else:
        typer.echo("Attached to the sweep's run in MLflow; `orchestrate ui` shows it.")


@app.command()
@answers_mistakes
def ui(
    sweep_name: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="Only this sweep's address.")
    ] = None,
    storage: Storage = _DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to answer.")] = 5000,
    tracking_uri: TrackingUri = None,
) -> None:
    """Open MLflow's pages on this machine, on the trials of each sweep, until Ctrl-C."""
    folders = [_lines_of(sweep_name, storage)[0]] if sweep_name else _folders(storage)
    journals = {folder: lines for folder in folders if (lines := read_journal(folder))}
    if not journals:
        raise UsageError(f"No sweeps in {storage}. Start one with `orchestrate sweep FILE`.")
    from orchestrator import browser

    uris = {f: _uri_of(lines, storage, tracking_uri) for f, lines in journals.items()}
    # One server shows one database; the sweep that was begun last decides which.
    uri = list(uris.values())[-1]
    pages = [
        browser.prepare(folder, journals[folder], uri) for folder, own in uris.items() if own == uri
    ]
    if not is_database(uri):
        _print_pages(pages, uri.rstrip("/"))
        return
    typer.echo("Starting MLflow's server, which takes a moment.")
    try:
        with browser.mlflow_pages(uri, port, storage) as address:
            _print_pages(pages, address)
            typer.echo("Ctrl-C ends it.")
            browser.wait_for_interrupt()
    except KeyboardInterrupt:
        pass
    typer.echo("Ended.")


def _print_pages(pages: list[Any], address: str) -> None:
    for page in pages:
        typer.echo(f"{page.sweep}\n  trials  {address}/{page.runs}")
        if page.report:
            typer.echo(f"  report  {address}/{page.report}")
        if page.file:
            typer.echo(f"  file    {page.file.resolve().as_uri()}")


# --- champions and their use ---------------------------------------------------------------------


@champion_app.command("show")
@answers_mistakes
def champion_show(
    name: Annotated[str, typer.Argument(help="The sweep's name.", show_default=False)],
    storage: Storage = _DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    as_json: Json = False,
) -> None:
    """Show which trial is champion, why, and what it was made from."""
    record = champion_record(name, model_use.registry_uri(name, storage, tracking_uri), storage)
    if as_json:
        _print_json(record)
        return
    title = f"{name}@champion: version {record['version']}, trial {record['trial']}"
    shown = display.table(title, "what", "value", left={"what", "value"})
    test = {"test": record.get("test") or "not read"}  # what nothing was chosen by comes first
    for key, value in _leaves({**test, **{k: v for k, v in record.items() if k != "test"}}):
        shown.add_row(Text(key), Text(value))
    display.print_on(_console(), shown)


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key == "registered" and isinstance(value, float):
            yield prefix + key, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        elif key == "gain_interval" or prefix.endswith("minus."):
            yield prefix + key, show_interval(value)
        elif isinstance(value, float) and prefix.startswith(("measures.", "test.")):
            yield prefix + key, show(value)
        else:
            yield prefix + key, show_setting(key, value, exact=True)


Reference = Annotated[
    str,
    typer.Argument(
        help="NAME@champion, NAME/VERSION, SWEEP/TRIAL, or a model folder.", show_default=False
    ),
]


@app.command()
@answers_mistakes
def export(
    reference: Reference,
    form: Annotated[
        Literal["lora", "merged", "adapter"],
        typer.Option(
            "--as",
            "--format",
            help="lora: a plain LoRA adapter; merged: a whole model; adapter: the model folder.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path, typer.Option(help="A folder, new or empty.", metavar="DIR", show_default=False)
    ],
    storage: Storage = _DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    base: MovedBase = None,
) -> None:
    """Write a trained adapter for use elsewhere."""
    _check_target(to)
    with model_use.model_folder(reference, storage, tracking_uri, note=_say) as folder:
        heads = model_use.export(folder, form, to, base)
    size = sum(file.stat().st_size for file in to.rglob("*") if file.is_file())
    typer.echo(f"Wrote {reference} as {form} to {to} ({size / 2**20:.2f} MiB).")
    if heads:
        labels = MODEL_FILE if form == "adapter" else model_use.HEAD_LABELS_FILE
        typer.echo(
            f"The tasks {', '.join(heads)} are answered by linear heads on the last hidden state: "
            f"{model_use.HEADS_FILE}, whose rows stand for the labels in {labels}."
        )


def _say(text: str) -> None:
    """Tell the user something beside the answer."""
    typer.echo(f"orchestrate: {text}", err=True)


def _check_target(to: Path) -> None:
    """Make the target folder.

    Args:
        to: What the user gave.

    Raises:
        UsageError: If it is not new or empty, or cannot be made.
    """
    try:
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise UsageError(f"`--to` {to} is there already and not empty. Name a new folder.")
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`--to` {to} cannot be made: {error.strerror or error}.") from None


@app.command()
@answers_mistakes
def predict(
    reference: Reference,
    texts: Annotated[
        list[str] | None, typer.Argument(help="What to judge.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Which of the learnt tasks; needed if there are several.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of the task's prompt, for tasks with several; repeat it.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="A file of rows to judge: csv, tsv, jsonl (each also .gz) or parquet.",
            metavar="FILE",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where the judged rows go: csv or jsonl.", metavar="FILE"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    storage: Storage = _DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    base: MovedBase = None,
    as_json: Json = False,
) -> None:
    """Let a trained adapter judge texts, or write them: from the command line or from a file."""
    if (source is None) != (output is None):
        given, other = ("--input", "--output") if output is None else ("--output", "--input")
        raise UsageError(f"`{given}` needs `{other}` beside it.")
    if source is not None and output is not None:
        if texts or column:
            raise UsageError("Give either texts or `--input`, not both.")
        model_use.check_files(source, output, force=force)
    with model_use.model_folder(reference, storage, tracking_uri, note=_say) as folder:
        if source is not None and output is not None:
            rows = _predict_file(folder, task, source, output, base)
            if as_json:
                _print_json({"model": reference, "rows": rows, "output": str(output)})
            else:
                typer.echo(f"Wrote {rows:,} rows to {output}.")
            return
        specs = {n: s.model_dump() for n, s in model_use.asked_tasks(folder).items()}
        name = _task_name(specs, task)
        rows = task_rows(specs[name], texts or [], column or [])
        predictions = model_use.load_folder(folder, base).predict(name, rows)
    results = [
        {"row": row, "label": p.label, "probabilities": dict(p.probabilities)}
        for row, p in zip(rows, predictions, strict=True)
    ]
    if as_json:
        _print_json({"model": reference, "task": name, "predictions": results})
        return
    labels = list(dict.fromkeys(label for r in results for label in r["probabilities"]))
    answer = "text" if specs[name]["kind"] == "generation" else "label"
    shown = display.table(f"{reference}, {name}", answer, *labels, "asked", left={answer, "asked"})
    for result in results:
        cells = [show(result["probabilities"].get(label)) for label in labels]
        text = " | ".join(str(value) for value in result["row"].values())
        shown.add_row(*(Text(cell) for cell in (result["label"], *cells, text)))
    _console().print(shown)


def _predict_file(
    folder: Path, task: str | None, source: Path, output: Path, base: Path | None
) -> int:
    """Answer a file of rows into another file; give the number of rows."""
    specs = model_use.asked_tasks(folder)
    name = _task_name({n: spec.model_dump() for n, spec in specs.items()}, task)
    rows, asked = model_use.read_rows(source, name, specs[name])
    answers = model_use.predict_rows(
        model_use.load_folder(folder, base), name, specs[name], asked,
        progress=model_use.telling(
            lambda text: typer.echo(text, err=True), every_s=PROGRESS_SECONDS
        ),
    )  # fmt: skip
    model_use.write_rows(output, rows, answers, model_use.added_columns(specs[name], asked))
    unanswered = [row for row, question in zip(rows, asked, strict=True) if question is None]
    if unanswered:
        typer.echo(
            f"orchestrate: {len(unanswered):,} of {len(rows):,} rows lack what the task asks for "
            f"and got no answer; the first is {where_is(unanswered[0])}.",
            err=True,
        )
    return len(rows)


def _task_name(tasks: Mapping[str, Mapping[str, Any]], wanted: str | None) -> str:
    names = [name for name, spec in tasks.items() if spec["kind"] != "language_modelling"]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        hint = suggestion(wanted, names) if wanted else ""
        got = f", got {wanted!r}" if wanted else ""
        raise UsageError(f"`--task` should be one of {', '.join(names) or 'none'}{got}.{hint}")
    return wanted


def task_rows(
    spec: Mapping[str, Any], texts: list[str], columns: list[str]
) -> list[dict[str, Any]]:
    """The rows that texts and `--column` options stand for.

    Args:
        spec: The task.
        texts: Texts of the one column that no option gives.
        columns: Options as `NAME=VALUE`; a list of choices is written as JSON.

    Returns:
        One row for each text, or a single one when every column was given.

    Raises:
        UsageError: If a column is unknown or missing, or a text is not UTF-8.
    """
    for number, text in enumerate([*texts, *columns], start=1):
        if half_character(text) is not None:
            shown = cut(text)
            raise UsageError(
                f"Text {number} of the command, {shown!r}, is not UTF-8. Write it in UTF-8, or "
                "give a file with `--input`."
            )
    fields = [f for _, f, _, _ in string.Formatter().parse(spec["prompt"]) if f]
    wanted = list(dict.fromkeys(re.split(r"[.\[]", f)[0] for f in fields))
    if spec["kind"] == "multiple_choice" and spec["choices_column"] not in wanted:
        wanted.append(spec["choices_column"])
    given = dict(_column(option, wanted, spec) for option in columns)
    free = [name for name in wanted if name not in given]
    if not free:
        if texts:
            raise UsageError("Every column was given with `--column`; leave the texts out.")
        return [given]
    if len(free) > 1:
        options = " ".join(f"--column {name}=..." for name in free[1:])
        raise UsageError(f"The task reads the columns {', '.join(wanted)}. Give {options} as well.")
    if not texts:
        raise UsageError(f"There is nothing to judge: give a text for the column {free[0]!r}.")
    return [given | {free[0]: text} for text in texts]


def _column(option: str, wanted: list[str], spec: Mapping[str, Any]) -> tuple[str, Any]:
    name, equals, text = option.partition("=")
    if not equals or name not in wanted:
        raise UsageError(
            f"`--column` should be NAME=VALUE with a name among {', '.join(wanted)}, "
            f"got {option!r}.{suggestion(name, wanted)}"
        )
    if name != spec.get("choices_column"):
        return name, text
    try:
        choices = json.loads(text)
    except json.JSONDecodeError:
        choices = None
    if not isinstance(choices, list) or len(choices) < 2:
        raise UsageError(
            f"`--column {name}` should be a JSON list of at least two choices, for example "
            f"""'{name}=["a cat", "a dog"]', got {text!r}."""
        )
    return name, choices


# --- the machine ---------------------------------------------------------------------------------


@app.command()
@answers_mistakes
def doctor(
    build: Annotated[
        bool, typer.Option("--build", help="Build DeepSpeed's communication op now.")
    ] = False,
    storage: Storage = _DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Check what a sweep needs on this machine, and say how to mend what is missing."""
    from orchestrator import doctor as examination

    if build and not as_json:
        typer.echo("Building DeepSpeed's communication op, about a minute the first time.")
    checks = examination.examine(storage, build=build)
    if as_json:
        _print_json(examination.as_document(checks))
    else:
        _console().print(examination.render(checks))
    if examination.worst(checks) == "FAIL":
        raise typer.Exit(FAILED)
