"""What the shell proposes: sweeps, trials, tasks, champions, fields; from the index as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def _index(storage: Path) -> Index:
    from orchestrator.registry.index.index import Index

    index = Index(storage)
    return index.refresh() if index.unread <= _MOST_UNREAD else index


def _first(context: typer.Context, name: str) -> str:
    """The first argument; before an option that has no value yet, arguments have no names."""
    return str(context.params.get(name) or next(iter(context.args), ""))


def _beginning(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)][:_MOST_PROPOSED]


def _quietly(propose: Callable[[], list[str]]) -> list[str]:
    try:
        return propose()
    except (UserError, ValueError, OSError):  # a prompt is no place for messages
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
        with _index(_storage(context)) as index:
            return _beginning(incomplete, ["base", *_trials(index, str(sweep))])

    return _quietly(propose) if sweep else []


def trials_of_file(context: typer.Context, incomplete: str) -> list[str]:
    """Trials of the last sweep of the experiment file that was named before, that begin so."""
    from orchestrator.records.sweep_folder import sweep_folder
    from orchestrator.system.stores.address import working_folder
    from orchestrator.system.yaml_file import read_yaml

    file = _first(context, "file")

    def propose() -> list[str]:
        document: Any = read_yaml(Path(file), ValueError)
        storage = working_folder(document.get("storage", DEFAULT_STORAGE))
        sweep = sweep_folder(storage, document["name"], new=False).name
        with _index(storage) as index:
            return _beginning(incomplete, _trials(index, sweep))

    return _quietly(propose) if file else []


def sweeps_and_trials(context: typer.Context, incomplete: str) -> list[str]:
    """`SWEEP`, after a slash `SWEEP/TRIAL`, after an at sign `SWEEP/TRIAL@TASK`, that begin so."""
    sweep, slash, rest = incomplete.partition("/")
    if not slash:
        return [*sweeps(context, incomplete), *(f"{n}/" for n in sweeps(context, incomplete))]
    trial, at, _ = rest.partition("@")

    def propose() -> list[str]:
        with _index(_storage(context)) as index:
            ends = [f"{trial}@{task}" for task in _learnt(index, sweep, trial)] if at else None
            names = _trials(index, sweep) if ends is None else ends
            return _beginning(incomplete, [f"{sweep}/{name}" for name in names])

    return _quietly(propose)


def champions(context: typer.Context, incomplete: str) -> list[str]:
    """Names that have or had a champion, that begin so."""
    return _quietly(lambda: _beginning(incomplete, _champion_names(_storage(context))))


def references(context: typer.Context, incomplete: str) -> list[str]:
    """`NAME@champion`, `SWEEP/TRIAL` and `SWEEP/TRIAL@TASK` that begin so."""

    def propose() -> list[str]:
        names = _champion_names(_storage(context))
        return _beginning(incomplete, [f"{name}@champion" for name in names])

    return [*_quietly(propose), *sweeps_and_trials(context, incomplete)]


def tasks(context: typer.Context, incomplete: str) -> list[str]:
    """Tasks that the adapter that was named before has learnt, that begin so."""
    reference = _first(context, "reference")
    storage = _storage(context)

    def propose() -> list[str]:
        owner, _, task = reference.partition("@")
        sweep, slash, trial = owner.partition("/")
        with _index(storage) as index:
            if not slash:
                sweep, trial = _champion_of(index, storage, owner)
            learnt = _learnt(index, sweep, trial)
        if slash and task in learnt:
            learnt = learnt[: learnt.index(task) + 1]
        return _beginning(incomplete, learnt)

    return _quietly(propose) if reference else []


def _champion_names(storage: Path) -> list[str]:
    from orchestrator.registry.champions.champion import champion_names

    with _index(storage) as index:
        return champion_names(storage, index)


def _champion_of(index: Index, storage: Path, name: str) -> tuple[str, str]:
    """The sweep and the trial of a champion: by the registry, else by the verdict."""
    from orchestrator.records.registry.registry_file import read_changes
    from orchestrator.records.registry.standing import Standing

    current = Standing.of(name, read_changes(storage)).current
    if current is not None and current.adapter is not None:
        return current.adapter.sweep, current.adapter.trial
    (row,) = index.sweeps([name])
    return name, str(row["champion"])


def _trials(index: Index, sweep: str) -> list[str]:
    return [row["trial"] for row in index.search(sweep=sweep, columns=["trial"], limit=None).rows]


def _learnt(index: Index, sweep: str, trial: str) -> list[str]:
    """The tasks that a trial has learnt, in their order."""
    columns = ["trial", "tasks", "learnt"]
    rows = index.search(sweep=sweep, columns=columns, limit=None).rows
    return [
        task
        for row in rows
        if row["trial"] == trial
        for task in row["tasks"].split(", ")[: row["learnt"]]
    ]


def _fields(context: typer.Context) -> list[str]:
    def propose() -> list[str]:
        with _index(_storage(context)) as index:
            return [field.name for field in index.fields(context.params.get("names") or None)]

    return _quietly(propose)


def orders(context: typer.Context, incomplete: str) -> list[str]:
    """Fields to sort by whose name begins as what follows the last comma does, `-` kept."""
    before, comma, last = incomplete.rpartition(",")
    sign = "-" if last.startswith("-") else ""
    found = _beginning(last.removeprefix("-"), _fields(context))
    return [f"{before}{comma}{sign}{name}" for name in found]


def columns(context: typer.Context, incomplete: str) -> list[str]:
    """Fields whose name begins as what follows the last comma does."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning(last, _fields(context))]


def filters(context: typer.Context, incomplete: str) -> list[str]:
    """Fields whose name begins as the last word of a filter does."""
    before, space, last = incomplete.rpartition(" ")
    return [f"{before}{space}{name}" for name in _beginning(last, _fields(context))]
