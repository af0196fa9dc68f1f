"""The commands that come next, as one would type them here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from orchestrator.records.sweep_state import SweepState
from orchestrator.system.stores.opening import address_of


def program() -> list[str]:
    """How to call this program from here.

    Returns:
        Its name; its path where the name is not found; or, where there is no such script, this
        Python and the module.
    """
    beside = Path(sys.executable).parent / "orchestrate"
    found = shutil.which("orchestrate")
    if found and Path(found) == beside:
        return ["orchestrate"]
    return [short_path(beside)] if beside.exists() else [sys.executable, "-m", "orchestrator"]


def next_commands(view: SweepState, folder: Path) -> dict[str, list[str]]:
    """The commands that come next, by what they are for.

    Args:
        view: The sweep.
        folder: The sweep's folder.

    Returns:
        Commands under "browse" and, when there is something to use, "use".
    """
    storage = address_of(folder.parent) or short_path(folder.parent)
    where = [] if storage == "runs" else ["--storage", storage]
    best = view.best
    browse = [[*program(), "runs", "show", folder.name, *where]]
    if best is not None:
        browse.append([*program(), "runs", "show", folder.name, best.name, *where])
    browse += [[*program(), command, folder.name, *where] for command in ("report", "ui")]
    use: list[list[str]] = []
    reference = None
    if view.model is not None:
        reference = f"{view.name}@champion"
        use.append([*program(), "predict", reference, "--task", view.tasks[0], *where, "A TEXT"])
    elif best is not None and best.adapter:
        reference = f"{folder.name}/{best.name}"
    if reference is not None:
        to = f"exported/{view.name}"
        use.append([*program(), "export", reference, "--as", "lora", "--to", to, *where])
    commands = {"browse": [shlex.join(words) for words in browse]}
    if use:
        commands["use"] = [shlex.join(words) for words in use]
    return commands


def short_path(path: Path) -> str:
    """A path as one would type it here: relative when it lies below the working folder."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` would follow venv's links)
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
