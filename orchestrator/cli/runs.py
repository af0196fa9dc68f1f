"""The commands `runs diff`, `runs show` and `repair`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.api.differences import diff_sweeps, diff_trials
from orchestrator.api.journals import read_sweep
from orchestrator.cli.application import app, runs_app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.diff import render_diff
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.options import DEFAULT_STORAGE, Json, Storage, Sweep
from orchestrator.cli.output.documents import outcome_document, trial_document
from orchestrator.cli.output.outcome_tables import MOST_SHOWN, render_summary, summary_svg
from orchestrator.cli.output.repair_words import repair_words
from orchestrator.cli.output.tables import print_on
from orchestrator.cli.output.trial_details import render_trial
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.registry.index.index import Index, open_index
from orchestrator.registry.part import part_of, summary_of
from orchestrator.system import durable
from orchestrator.system.formatting import count
from orchestrator.system.user_error import UsageError


@runs_app.command("diff")
@answers_mistakes
def runs_diff(
    left: Annotated[
        str,
        typer.Argument(
            help="SWEEP/TRIAL, or SWEEP.",
            show_default=False,
            autocompletion=completion.sweeps_and_trials,
        ),
    ],
    right: Annotated[
        str,
        typer.Argument(
            help="What to compare it with.",
            show_default=False,
            autocompletion=completion.sweeps_and_trials,
        ),
    ],
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show what differs between two trials, or between two sweeps and their best trials."""
    if ("/" in left) != ("/" in right):
        raise UsageError(
            f"Two trials (SWEEP/TRIAL) or two sweeps can be compared, got {left!r} and {right!r}."
        )
    with open_index(storage) as index:
        sides = [_view_and_trial(index, name) for name in (left, right)]
    (left_view, left_trial), (right_view, right_trial) = sides
    if left_trial is None or right_trial is None:
        document = diff_sweeps(left_view, right_view)
    else:
        document = diff_trials((left_view, left_trial), (right_view, right_trial))
    if as_json:
        print_json(document)
    else:
        print_on(make_console(), render_diff(document))


def _view_and_trial(index: Index, name: str) -> tuple[SweepState, TrialRecord | None]:
    sweep, slash, trial = name.partition("/")
    wanted = trial if slash else index.sweeps([sweep])[0]["best"]
    _, view = part_of(index, sweep, [wanted] if wanted is not None else [])
    # Two folders may hold sweeps of one name; the folder is what the user typed.
    view.name = sweep
    return view, view.trial(trial) if slash else None


@runs_app.command("show")
@answers_mistakes
def runs_show(
    sweep_name: Sweep,
    trial: Annotated[
        str | None,
        typer.Argument(help="One of its trials, for all of it.", autocompletion=completion.trials),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    svg: Annotated[
        Path | None,
        typer.Option(help="Draw a sweep's table into this SVG file.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a sweep as it showed itself at its end, or everything about one trial."""
    console = make_console()
    if trial is not None:
        with open_index(storage) as index:
            folder, view = part_of(index, sweep_name, [trial])
        found = view.trial(trial)
        if as_json:
            print_json(trial_document(view, found, folder))
        else:
            print_on(console, render_trial(view, found, folder))
    elif as_json:
        folder, lines = read_sweep(sweep_name, storage)
        print_json(outcome_document(lines, folder))
    if svg is None and (as_json or trial is not None):
        return
    with open_index(storage) as index:
        folder, view, whole = summary_of(index, sweep_name, MOST_SHOWN)
    if svg is not None:
        durable.write(svg, summary_svg(view, whole, folder))
    if trial is None and not as_json:
        print_on(console, render_summary(view, whole, folder, width=console.width))


@app.command()
@answers_mistakes
def repair(
    sweep_name: Sweep,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Keep what can be kept of a sweep whose journal is damaged, and let MLflow follow it."""
    from orchestrator.sweep.repair import rebuild_cards, rebuild_mlflow, repair_journal

    folder = storage.resolve() / sweep_name
    if not folder.is_dir():
        read_sweep(sweep_name, storage)  # says which there are
    done = repair_journal(folder, note=typer.echo)
    for line in repair_words(done):
        typer.echo(line)
    cards = rebuild_cards(folder)
    typer.echo(f"{count(cards, 'adapter card')} written again" if cards else "all cards are there")
    Index(storage).rebuild().close()
    rebuild_mlflow(folder, done, note=typer.echo)
    typer.echo("MLflow shows what the journal says. The command of the sweep goes on with it.")
