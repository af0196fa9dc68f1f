"""The commands `report` and `ui`, which show sweeps in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.api.journals import read_sweep
from orchestrator.cli.application import app
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.options import DEFAULT_STORAGE, Storage, Sweep, TrackingUri, check_storage
from orchestrator.records.errors import TrackingError
from orchestrator.records.event import Line
from orchestrator.records.journal import is_being_written
from orchestrator.records.mlflow.address import recorded_uri
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.user_error import UsageError


def _uri_of(lines: Sequence[Line], storage: Path, tracking_uri: str | None) -> str:
    """Where MLflow records a sweep: as given, as its experiment says, or in storage."""
    return recorded_uri(SweepState.of(lines[:1]).experiment, storage, tracking_uri)


@app.command()
@answers_mistakes
def report(
    sweep_name: Sweep,
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
        str | None,
        typer.Argument(
            metavar="[SWEEP]", help="Print this sweep's address.", autocompletion=completion.sweeps
        ),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to answer; 0: any.")] = 5000,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes", help="Let the pages change champions, add and stop trials."
        ),
    ] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Show sweeps, trials and champions in a browser on this machine, until Ctrl-C."""
    if sweep_name is not None and not SweepFolder(storage / sweep_name).journal.is_file():
        read_sweep(sweep_name, storage)  # says which there are
    check_storage(storage)
    from orchestrator.cli.mlflow_beside import MlflowBeside
    from orchestrator.cli.mlflow_server import ended_by_signals, wait_for_interrupt
    from orchestrator.web import addresses
    from orchestrator.web.guard import Changes
    from orchestrator.web.reading import Reading
    from orchestrator.web.server import serving
    from orchestrator.web.site import Site

    changes = Changes(allow_changes)
    try:
        with (
            ended_by_signals(),
            MlflowBeside(storage, tracking_uri) as mlflow,
            serving(Site(Reading(storage), changes, mlflow, tracking_uri), port) as address,
        ):
            path = "/" if sweep_name is None else addresses.sweep_page(sweep_name)
            typer.echo(f"{address}{path}")
            if allow_changes:
                let_in = f"{address}/enter/{changes.key}"
                typer.echo(f"Changes are allowed to a browser that has opened {let_in}")
            typer.echo("Ctrl-C ends it.")
            wait_for_interrupt()
    except KeyboardInterrupt:
        pass
    typer.echo("Ended.")
