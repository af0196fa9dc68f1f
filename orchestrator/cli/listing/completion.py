"""What the shell proposes: sweeps, trials and fields, from the index as it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.system.user_error import UserError

if TYPE_CHECKING:
    from orchestrator.registry.index.index import Index

DEFAULT_STORAGE = Path("./runs")
"""The folder that sweeps are kept in, where no option names one."""
_MOST_UNREAD = 4_000_000
"""Bytes of journals that are read for a proposal: nobody waits for more at a prompt."""
_MOST_PROPOSED = 200


def _storage(context: typer.Context) -> Path:
    return Path(context.params.get("storage") or DEFAULT_STORAGE)


def _index(context: typer.Context) -> Index:
    from orchestrator.registry.index.index import Index

    index = Index(_storage(context))
    return index.refresh() if index.unread <= _MOST_UNREAD else index


def _beginning(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)][:_MOST_PROPOSED]


def _quietly(propose: Callable[[], list[str]]) -> list[str]:
    try:
        return propose()
    except (UserError, OSError):  # a prompt is no place for messages
        return []


def sweeps(context: typer.Context, incomplete: str) -> list[str]:
    """Sweeps whose name begins so."""
    from orchestrator.registry.begun import begun_sweeps

    names = (folder.name for folder in begun_sweeps(_storage(context)))
    return _quietly(lambda: _beginning(incomplete, names))


def trials(context: typer.Context, incomplete: str) -> list[str]:
    """Trials of the sweep that was named before, whose name begins so."""
    sweep = context.params.get("sweep_name")

    def propose() -> list[str]:
        with _index(context) as index:
            return _beginning(incomplete, ["base", *_trials(index, str(sweep))])

    return _quietly(propose) if sweep else []


def sweeps_and_trials(context: typer.Context, incomplete: str) -> list[str]:
    """`SWEEP`, or once there is a slash `SWEEP/TRIAL`, that begin so."""
    sweep, slash, _ = incomplete.partition("/")
    if not slash:
        return [*sweeps(context, incomplete), *(f"{n}/" for n in sweeps(context, incomplete))]

    def propose() -> list[str]:
        with _index(context) as index:
            return _beginning(incomplete, [f"{sweep}/{name}" for name in _trials(index, sweep)])

    return _quietly(propose)


def references(context: typer.Context, incomplete: str) -> list[str]:
    """`NAME@champion` and `SWEEP/TRIAL` that begin so."""

    def propose() -> list[str]:
        with _index(context) as index:
            rows = [row for row in index.sweeps() if "problem" not in row]
            named = {f"{row['experiment']}@champion": None for row in rows if row["model"]}
        return _beginning(incomplete, named)

    return [*_quietly(propose), *sweeps_and_trials(context, incomplete)]


def _trials(index: Index, sweep: str) -> list[str]:
    return [row["trial"] for row in index.search(sweep=sweep, columns=["trial"], limit=None).rows]


def _fields(context: typer.Context) -> list[str]:
    def propose() -> list[str]:
        with _index(context) as index:
            return [field.name for field in index.fields(context.params.get("names") or None)]

    return _quietly(propose)


def orders(context: typer.Context, incomplete: str) -> list[str]:
    """Fields to sort by that begin so; what begins with `-` is an option to the shell's helper."""
    return _beginning(incomplete, _fields(context))


def columns(context: typer.Context, incomplete: str) -> list[str]:
    """Fields whose name begins as what follows the last comma does."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning(last, _fields(context))]


def filters(context: typer.Context, incomplete: str) -> list[str]:
    """Fields whose name begins as the last word of a filter does."""
    before, space, last = incomplete.rpartition(" ")
    return [f"{before}{space}{name}" for name in _beginning(last, _fields(context))]
