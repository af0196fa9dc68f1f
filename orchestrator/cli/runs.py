"""The commands `runs list`, `runs diff`, `runs show` and `repair`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.api.differences import diff_sweeps, diff_trials
from orchestrator.api.journals import begun_sweeps, find_trial, read_sweep
from orchestrator.cli import query
from orchestrator.cli.application import app, runs_app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.diff import render_diff
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.options import DEFAULT_STORAGE, Json, Storage
from orchestrator.cli.output.documents import outcome_document, trial_document, trial_row
from orchestrator.cli.output.outcome_tables import outcome_svg, render_outcome
from orchestrator.cli.output.repair_words import repair_words
from orchestrator.cli.output.sweep_list import render_sweeps, sweep_row
from orchestrator.cli.output.tables import print_on
from orchestrator.cli.output.trial_details import render_trial
from orchestrator.cli.output.trials_table import render_trials
from orchestrator.records.errors import JournalError
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.system import durable
from orchestrator.system.formatting import count
from orchestrator.system.user_error import UsageError


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
    storage: Storage = DEFAULT_STORAGE,
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
        known = ", ".join(found.name for found in begun_sweeps(storage)) or "none"
        raise UsageError(
            "`--filter`, `--sort` and `--csv` are for the trials of one sweep; name it: "
            f"`orchestrate runs list SWEEP ...`. Sweeps in {storage}: {known}."
        )
    console = make_console()
    rows: list[dict[str, Any]] = []
    for folder in begun_sweeps(storage):
        try:
            rows.append(sweep_row(SweepState.of(read_journal(folder)), folder))
        except JournalError as error:
            typer.echo(f"orchestrate: left out: {error}", err=True)
    if as_json:
        print_json(rows)
    elif rows:
        print_on(console, render_sweeps(rows, now=time.time()))
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

    folder, lines = read_sweep(sweep_name, storage)
    view = SweepState.of(lines)
    trials = query.select(view, conditions=conditions, order=order)
    if as_json:
        print_json([trial_row(view, trial, folder) for trial in trials])
    elif as_csv:
        # As bytes: the lines' ends must reach a file or a pipe as they are.
        sys.stdout.buffer.write(query.to_csv(view, trials).encode())
        sys.stdout.flush()
    elif trials or not conditions:
        console = make_console()
        print_on(console, render_trials(view, console.width, trials))
    else:
        typer.echo(f"None of the {len(view.trials)} trials of {sweep_name} fulfils the filter.")


@runs_app.command("diff")
@answers_mistakes
def runs_diff(
    left: Annotated[str, typer.Argument(help="SWEEP/TRIAL, or SWEEP.", show_default=False)],
    right: Annotated[str, typer.Argument(help="What to compare it with.", show_default=False)],
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show what differs between two trials, or between two sweeps and their best trials."""
    if ("/" in left) != ("/" in right):
        raise UsageError(
            f"Two trials (SWEEP/TRIAL) or two sweeps can be compared, got {left!r} and {right!r}."
        )
    (left_view, left_trial), (right_view, right_trial) = (
        _view_and_trial(name, storage) for name in (left, right)
    )
    if left_trial is None or right_trial is None:
        document = diff_sweeps(left_view, right_view)
    else:
        document = diff_trials((left_view, left_trial), (right_view, right_trial))
    if as_json:
        print_json(document)
    else:
        print_on(make_console(), render_diff(document))


def _view_and_trial(name: str, storage: Path) -> tuple[SweepState, TrialRecord | None]:
    sweep_name, slash, trial = name.partition("/")
    view = SweepState.of(read_sweep(sweep_name, storage)[1])
    # Two folders may hold sweeps of one name; the folder is what the user typed.
    view.name = sweep_name
    return view, find_trial(view, trial) if slash else None


@runs_app.command("show")
@answers_mistakes
def runs_show(
    sweep_name: Annotated[str, typer.Argument(metavar="SWEEP", show_default=False)],
    trial: Annotated[str | None, typer.Argument(help="One of its trials, for all of it.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    svg: Annotated[
        Path | None,
        typer.Option(help="Draw a sweep's table into this SVG file.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a sweep as it showed itself at its end, or everything about one trial."""
    folder, lines = read_sweep(sweep_name, storage)
    console = make_console()
    if svg is not None:
        durable.write(svg, outcome_svg(lines, folder))
    if trial is None:
        if as_json:
            print_json(outcome_document(lines, folder))
        else:
            shown = render_outcome(lines, folder, width=console.width)
            print_on(console, shown)
        return
    view = SweepState.of(lines)
    found = find_trial(view, trial)
    if as_json:
        print_json(trial_document(view, found, folder))
    else:
        print_on(console, render_trial(view, found, folder))


@app.command()
@answers_mistakes
def repair(
    sweep_name: Annotated[str, typer.Argument(metavar="SWEEP", show_default=False)],
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
    rebuild_mlflow(folder, done, note=typer.echo)
    typer.echo("MLflow shows what the journal says. The command of the sweep goes on with it.")
