"""The command `score`: what a trial was not scored on while its sweep ran."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from orchestrator.api.journals import find_trial, read_sweep
from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import FAILED, answers_mistakes, stop
from orchestrator.cli.listing import completion
from orchestrator.cli.options import (
    DEFAULT_STORAGE,
    DataRoot,
    Json,
    MovedBase,
    Storage,
    Sweep,
    check_data_root,
)
from orchestrator.cli.output.documents import trial_document
from orchestrator.cli.output.live import LiveDisplay
from orchestrator.cli.output.tables import print_on
from orchestrator.cli.output.trial_details import matrix_tables
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.task_files import at_data_root, find_task_file, load_task

_TASK_FOLDERS = (Path("experiments/tasks"), Path("tasks"))


@app.command()
@answers_mistakes
def score(
    sweep_name: Sweep,
    trial: Annotated[
        str,
        typer.Argument(
            help="One of its trials; `base` with `--task`.",
            show_default=False,
            autocompletion=completion.trials,
        ),
    ],
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="The whole matrix; else the cells that the sweep's measures need."
        ),
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|NAME", help="A task that the sweep does not have; may be repeated."
        ),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    base: MovedBase = None,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Score a finished trial on all validation examples, from the adapters that it has kept."""
    check_data_root(data_root)
    folder, lines = read_sweep(sweep_name, storage)
    find_trial(SweepState.of(lines, whole=False), trial)
    files = [find_task_file(name, list(_TASK_FOLDERS)) for name in task or ()]
    tasks = tuple(at_data_root(load_task(file), data_root) for file in files)
    from orchestrator.sweep.scores.later_scores import Asked, score_later, unscored_words

    shown = LiveDisplay(make_console(stderr=True))
    with shown:
        view, _ = score_later(folder, Asked(trial, full, tasks, base), shown)
    record = find_trial(view, trial)
    if as_json:
        print_json(trial_document(view, record, folder))
    else:
        for part in matrix_tables(view, record):
            print_on(make_console(), part)
            print_on(make_console(), Text())
    said = unscored_words(view, trial)
    if said:
        stop("; ".join(said), FAILED)
