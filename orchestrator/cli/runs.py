"""The commands `runs diff`, `runs show` and `repair`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.api.diff import diff
from orchestrator.api.journals import read_sweep
from orchestrator.cli.application import app, runs_app
from orchestrator.cli.console import make_console, print_json, print_json_list
from orchestrator.cli.diff import render_diff
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.options import DEFAULT_STORAGE, Json, Storage, Sweep
from orchestrator.cli.output.documents import sweep_head, trial_document, trial_texts
from orchestrator.cli.output.outcome_tables import MOST_SHOWN, render_summary, summary_svg
from orchestrator.cli.output.repair_words import registry_words, repair_words
from orchestrator.cli.output.tables import print_on
from orchestrator.cli.output.trial_details import render_trial
from orchestrator.records.registry.registry_repair import repair_registry
from orchestrator.registry.index.index import Index, open_index
from orchestrator.registry.part import part_of, summary_of
from orchestrator.system import durable
from orchestrator.system.formatting import count
from orchestrator.system.strict_json import without_nan


@runs_app.command("diff")
@answers_mistakes
def runs_diff(
    left: Annotated[
        str,
        typer.Argument(
            help="SWEEP/TRIAL, its adapter after a task as SWEEP/TRIAL@TASK, or SWEEP.",
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
    """Show what differs between two trials, two adapters, or two sweeps and their best trials."""
    document = diff(left, right, storage)
    if as_json:
        print_json(document)
    else:
        print_on(make_console(), render_diff(document))


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
    if svg is None and trial is not None:
        return
    with open_index(storage) as index:
        folder, view, whole = summary_of(index, sweep_name, MOST_SHOWN)
        if trial is None and as_json:
            _print_whole(index, sweep_name, sweep_head(view, folder, whole.planned))
    if svg is not None:
        durable.write(svg, summary_svg(view, whole, folder))
    if trial is None and not as_json:
        print_on(console, render_summary(view, whole, folder, width=console.width))


def _print_whole(index: Index, sweep: str, head: dict[str, Any]) -> None:
    rows = index.search(sweep=sweep, columns=["trial"], limit=None).rows
    texts = trial_texts(index, [(sweep, row["trial"]) for row in rows], named=False)
    text = json.dumps(without_nan(head), default=str, allow_nan=False)
    print_json_list(texts, f'{text[:-1]}, "trials": [', "]}")


@app.command()
@answers_mistakes
def repair(
    sweep_name: Sweep,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Keep what can be kept of a damaged journal, check the registry, and let MLflow follow."""
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
    mended = repair_registry(folder.parent)
    if mended is not None:
        typer.echo(registry_words(mended))
    rebuild_mlflow(folder, done, note=typer.echo)
    typer.echo("MLflow shows what the journal says. The command of the sweep goes on with it.")
