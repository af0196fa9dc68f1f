"""Which adapter is in use under a sweep's name: it need not be the one that its verdict chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.records.errors import RegistryError
from orchestrator.records.registry.change import BY_MLFLOW, BY_VERDICT, Change
from orchestrator.records.registry.registry_file import read_changes
from orchestrator.records.registry.standing import Standing
from orchestrator.system.formatting import moment


@dataclass(frozen=True)
class Decided:
    """What the journal of a sweep says of its champion."""

    name: str
    """The name of its folder, under which champions are registered."""
    sweep_id: str | None
    champion: str | None
    """The trial that the verdict in force chose; None where there is none."""
    time: float | None = None
    """When, in seconds since the epoch."""


def in_use(decided: Decided, changes: Iterable[Change]) -> dict[str, Any] | None:
    """What is in use under a sweep's name.

    Args:
        decided: What its journal says.
        changes: What the registry of its storage folder says, of any names.

    Returns:
        `adapter` (`SWEEP/TRIAL`, `SWEEP/TRIAL@TASK`; null where none is, or MLflow's version is
        none of ours), `sweep`, `sweep_id`, `trial`, `event`, `who`, `time`, `version` (MLflow's, as
        far as it is known) and `words` (a sentence; null where it is what the verdict chose). None
        where no adapter ever was. The verdict's where the registry does not know the name.
    """
    standing = Standing.of(decided.name, changes)
    current = standing.current
    if current is None:
        if decided.champion is None or standing.decided is not None:
            return None
        return {
            "adapter": f"{decided.name}/{decided.champion}", "sweep": decided.name,
            "sweep_id": decided.sweep_id, "trial": decided.champion, "event": "decided",
            "who": BY_VERDICT, "time": decided.time, "version": None, "words": None,
        }  # fmt: skip
    key = current.adapter
    version = standing.version_of(key) or current.version
    return {
        "adapter": None if key is None else key.reference,
        "sweep": None if key is None else key.sweep,
        "sweep_id": None if key is None else key.sweep_id,
        "trial": None if key is None else key.trial,
        "event": current.event,
        "who": current.who,
        "time": current.time,
        "version": version,
        "words": _words(decided, current, version),
    }


def in_use_of(storage: Path, decided: Decided) -> dict[str, Any] | None:
    """The same, of the registry as it is now.

    Args:
        storage: The storage folder.
        decided: What the journal of a sweep in it says.

    Returns:
        As `in_use`; of a damaged registry only `words`, which say so.
    """
    try:
        return in_use(decided, read_changes(storage))
    except RegistryError as error:
        return unknown(error)


def unknown(error: RegistryError) -> dict[str, Any]:
    """What is in use where the registry cannot be read."""
    return {"adapter": None, "words": f"in use: not known. {error}"}


def words_of(found: Mapping[str, Any] | None) -> str | None:
    """The sentence on what is in use; None where there is nothing to say."""
    return None if found is None else found["words"]


def _words(decided: Decided, current: Change, version: str | None) -> str | None:
    key, day = current.adapter, moment(current.time)
    chosen = (decided.sweep_id, decided.champion, None)
    if key is not None and (key.sweep_id, key.trial, key.task) == chosen:
        return None
    if current.event == "withdrawn":
        told = f"in use: none, as the alias was taken away in MLflow on {day}"
    elif key is None:
        told = f"in use: MLflow's version {version}, which was made elsewhere, since {day}"
    else:
        by = {BY_MLFLOW: "in MLflow", BY_VERDICT: "by a verdict"}.get(
            current.who, f"by {current.who}"
        )
        shown = f" (version {version} in MLflow)" if version else ""
        told = f"in use: {key.reference}{shown}, chosen {by} on {day}"
    if decided.champion is None:
        return f"{told}."
    return f"{told}; the verdict chose {decided.champion}."
