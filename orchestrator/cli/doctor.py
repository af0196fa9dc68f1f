"""The command `doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import FAILED, answers_mistakes
from orchestrator.cli.options import DEFAULT_STORAGE, Json, Storage
from orchestrator.planning.doctor import examine
from orchestrator.planning.doctor.check import Check, worst


@app.command()
@answers_mistakes
def doctor(
    build: Annotated[
        bool, typer.Option("--build", help="Build DeepSpeed's communication op now.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Check what a sweep needs on this machine, and say how to fix what is missing."""
    if build and not as_json:
        typer.echo("Building DeepSpeed's communication op, about a minute the first time.")
    checks = examine.examine(storage, build=build)
    if as_json:
        print_json(as_document(checks))
    else:
        make_console().print(render(checks))
    if worst(checks) == "FAIL":
        raise typer.Exit(FAILED)


def as_document(checks: list[Check]) -> dict[str, Any]:
    """The checks for programs."""
    return {"status": worst(checks), "checks": [asdict(check) for check in checks]}


def render(checks: list[Check]) -> RenderableType:
    """The checks for people: a line each, and below it how to fix what is wrong.

    Args:
        checks: The outcomes.

    Returns:
        The lines and a sentence on all of them.
    """
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    styles = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}
    for check in checks:
        words = Text(check.found)
        words.append("\n" + check.fix if check.fix else "", style="italic")
        rows.add_row(Text(check.status, style=styles[check.status]), Text(check.name), words)
    return Group(rows, Text(), Text(_summary(checks)))


def _summary(checks: list[Check]) -> str:
    count = {
        status: sum(check.status == status for check in checks)
        for status in ("PASS", "WARN", "FAIL")
    }
    words = ", ".join(f"{number} {status.lower()}" for status, number in count.items())
    verdict = {
        "PASS": "Ready.",
        "WARN": "A sweep will run; the warnings say what it may cost.",
        "FAIL": "Fix what failed first.",
    }
    return f"{words}. {verdict[worst(checks)]}"
