"""The commands `report` and `ui`, which show sweeps in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.api.journals import read_sweep
from orchestrator.cli.application import app
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.options import DEFAULT_STORAGE, Storage, TrackingUri
from orchestrator.records.errors import TrackingError
from orchestrator.records.event import Line
from orchestrator.records.journal import is_being_written
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.address import is_database, recorded_uri
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.begun import begun_sweeps
from orchestrator.system.user_error import UsageError


def _uri_of(lines: list[Line], storage: Path, tracking_uri: str | None) -> str:
    """Where MLflow records a sweep: as given, as its experiment says, or in storage."""
    return recorded_uri(SweepState.of(lines).experiment, storage, tracking_uri)


@app.command()
@answers_mistakes
def report(
    sweep_name: Annotated[str, typer.Argument(metavar="SWEEP", show_default=False)],
    storage: Storage = DEFAULT_STORAGE,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to; by default `report` in the sweep's folder.", metavar="DIR"),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a sweep's report: one HTML page that needs no network, and its pictures as PNG."""
    folder, lines = read_sweep(sweep_name, storage)
    from orchestrator.report.written import write_report

    try:
        page = write_report(lines, folder, output)
    except OSError as error:
        where = output or SweepFolder(folder).report
        raise UsageError(
            f"The report cannot be written to {where}: {error.strerror or error}. Name another "
            "folder with `--output DIR`."
        ) from None
    typer.echo(f"Wrote {page}, to be opened in any browser: {page.resolve().as_uri()}")
    if is_being_written(folder):
        typer.echo("The sweep is running, and attaches its report to MLflow itself at its end.")
        return
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
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to answer.")] = 5000,
    tracking_uri: TrackingUri = None,
) -> None:
    """Open MLflow's pages on this machine, on the trials of each sweep, until Ctrl-C."""
    folders = [read_sweep(sweep_name, storage)[0]] if sweep_name else begun_sweeps(storage)
    journals = {folder: lines for folder in folders if (lines := read_journal(folder))}
    if not journals:
        raise UsageError(f"No sweeps in {storage}. Start one with `orchestrate sweep FILE`.")
    from orchestrator.cli import mlflow_server

    uris = {f: _uri_of(lines, storage, tracking_uri) for f, lines in journals.items()}
    # One server shows one database; the sweep that was begun last decides which.
    uri = list(uris.values())[-1]
    pages = [
        mlflow_server.prepare(folder, journals[folder], uri)
        for folder, own in uris.items()
        if own == uri
    ]
    if not is_database(uri):
        _print_pages(pages, uri.rstrip("/"))
        return
    typer.echo("Starting MLflow's server, which takes a moment.")
    try:
        with mlflow_server.mlflow_pages(uri, port, storage) as address:
            _print_pages(pages, address)
            typer.echo("Ctrl-C ends it.")
            mlflow_server.wait_for_interrupt()
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
