"""Where commands write: tables to the terminal, JSON to stdout, notes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

import typer
from rich.console import Console

from orchestrator.system.strict_json import without_nan

WIDTH_WITHOUT_TERMINAL = 100
_AT_ONCE = 200
"""Values of a list that are printed at once."""


def make_console(*, stderr: bool = False) -> Console:
    """A console of the terminal's width, of 100 columns where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty() or "COLUMNS" in os.environ:
        return Console(stderr=stderr)
    return Console(stderr=stderr, width=WIDTH_WITHOUT_TERMINAL)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; NaN becomes null."""
    typer.echo(json.dumps(without_nan(document), default=str, allow_nan=False))


def print_json_list(items: Iterable[str], head: str = "[", tail: str = "]") -> None:
    """Print a list of JSON values on stdout, as they come.

    Args:
        items: Each as JSON.
        head: What stands before them.
        tail: What stands after them.
    """
    # Thousands of rows at once are hundreds of megabytes.
    some = iter(items)
    before = head
    while chunk := list(islice(some, _AT_ONCE)):
        typer.echo(before + ", ".join(chunk), nl=False)
        before = ", "
    typer.echo(tail if before == ", " else head + tail)


def print_note(text: str) -> None:
    """Print a note on stderr."""
    typer.echo(f"orchestrate: {text}", err=True)
