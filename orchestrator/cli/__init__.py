"""The command line: `orchestrate`.

Tables are for people and go to the terminal; `--json` is for programs. A mistake of the user's is
answered with one message on stderr and exit code 2, and never with a traceback;
unexpected errors show theirs. Heavy packages are imported by the commands that need them, and the
modules of other commands not at all: a list answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.cli.application import OWN_PROCESS
from orchestrator.cli.application import app as _app

_COMMANDS = {
    "sweeps": ("plan", "sweep", "run"),
    "select": ("select",),
    "extend": ("extend",),
    "reproduce": ("reproduce",),
    "score": ("score",),
    "methods": ("methods",),
    "browse": ("report", "ui"),
    "champions.commands": ("champion",),
    "models": ("export",),
    "predict": ("predict",),
    "serving.serve": ("serve",),
    "serving.bundle": ("bundle", "verify"),
    "serving.prune": ("prune",),
    "doctor": ("doctor",),
    "listing.command": ("runs list",),
    "runs": ("runs diff", "runs show", "repair"),
    "tasks": ("tasks",),
    "remote.jobs": ("submit", "status", "logs", "stop", "results"),
    "remote.cluster": ("cluster",),
}
"""By module, the commands that it registers; the help lists them in this order."""

if TYPE_CHECKING:
    app = _app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line."""
    _load(_modules_for(_typed()))
    _app(obj=OWN_PROCESS)


def __getattr__(name: str) -> Any:
    """The application with every command, or a module of them."""
    if name == "app":
        _load(_COMMANDS)
        return _app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _load(modules: Sequence[str] | dict[str, Any]) -> None:
    for module in modules:
        importlib.import_module(f"{__name__}.{module}")


def _typed() -> list[str]:
    """The whole words that were typed after the program's name."""
    if "_ORCHESTRATE_COMPLETE" not in os.environ:
        return sys.argv[1:]
    # A shell asks what may follow: the word that is being written may be the beginning of several.
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    words = line.split()[1:]
    return words if line.endswith((" ", "\n")) else words[:-1]


def _modules_for(typed: Sequence[str]) -> Sequence[str] | dict[str, Any]:
    """The modules of the command that was typed; all where it is not one of them."""
    if list(typed) == ["--version"]:
        return []
    for count in (2, 1):
        words = " ".join(typed[:count])
        found = [
            module
            for module, commands in _COMMANDS.items()
            if any(f"{command} ".startswith(f"{words} ") for command in commands)
        ]
        if words and found:
            return found
    return _COMMANDS
