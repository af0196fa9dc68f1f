"""The application that commands register at."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from curlora_kinds.plugins import plugins_of_environment
from orchestrator.cli.errors import answers_mistakes

app = typer.Typer(
    name="orchestrate",
    help="Search for the best way to teach a language model one task after another.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs_app = typer.Typer(help="Look at sweeps and their trials.", no_args_is_help=True)
champion_app = typer.Typer(
    help="Champions: show, compare, promote, roll back.", no_args_is_help=True
)
app.add_typer(runs_app, name="runs")
app.add_typer(champion_app, name="champion")
tasks_app = typer.Typer(help="Look at task files and the data they read.", no_args_is_help=True)
app.add_typer(tasks_app, name="tasks")


OWN_PROCESS = "this process is for one command"
"""The context's object where the command line was not called from within another program."""


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(importlib.metadata.version("curlora-orchestrator"))
        except importlib.metadata.PackageNotFoundError:
            typer.echo("not installed (run from a checkout)")
        raise typer.Exit


@app.callback()
@answers_mistakes
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # answered before this
    # Whoever installs a plugin, or sets the variable, has it in every command.
    if plugins_of_environment():
        from orchestrator.spec.plugins import load_installed_plugins

        load_installed_plugins()
