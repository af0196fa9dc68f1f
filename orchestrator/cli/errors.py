"""How commands end when something is wrong: one message on stderr and an exit code.

A mistake of the user's is never answered with a traceback; unexpected errors show theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NoReturn, ParamSpec

import typer

from orchestrator.records.redaction import redacted
from orchestrator.system.user_error import UserError

MISTAKE = 2
"""Exit code of a mistake in the command or in a file that it names."""
FAILED = 1
"""Exit code of a command that did its work and found that something failed."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


_Parameters = ParamSpec("_Parameters")


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
        except UserError as error:
            stop(str(error), MISTAKE)

    return answered


def stop(message: str, code: int) -> NoReturn:
    """End the command with a message on stderr and an exit code."""
    # A name of a file may hold bytes that no encoding of the terminal can write; a wrong value may
    # be an address with a password.
    shown = redacted(message).encode("utf-8", "backslashreplace").decode()
    typer.echo(f"orchestrate: {shown}", err=True)
    raise typer.Exit(code)
