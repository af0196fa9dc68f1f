"""Promoting an adapter, and going back to the champion before."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.errors import (
    AdapterFolderError,
    MissingRunError,
    RegistryError,
    TrackingError,
)
from orchestrator.records.journal import is_being_written
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.address import recorded_uri
from orchestrator.records.mlflow.champion import put_champion
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.model_folder import adapter_flaw
from orchestrator.records.opening import folder_of, read_opening
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.registry_file import OpenRegistry, open_registry
from orchestrator.records.registry.standing import Standing
from orchestrator.records.registry.verdicts import evidence_of
from orchestrator.registry.champions.adapters import FoundAdapter, find_adapter, open_adapter
from orchestrator.registry.champions.champion import standing_of, verdict_in_journal
from orchestrator.registry.champions.refusals import against


def who_am_i() -> str:
    """The person at this machine, as the registry names people: `USER@HOST`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _silent(_: str) -> None:
    """No one is informed."""


def promote(
    storage: Path,
    reference: str,
    *,
    reason: str,
    name: str | None = None,
    force: bool = False,
    by: str | None = None,
    tracking_uri: str | None = None,
    note: Callable[[str], None] = _silent,
) -> Change:
    """Make an adapter champion, in the registry and then in MLflow.

    Args:
        storage: The storage folder.
        reference: `SWEEP/TRIAL` or `SWEEP/TRIAL@TASK`.
        reason: Why, in words that the history keeps.
        name: Whose champion it becomes; None: its own sweep's.
        force: Promote although something speaks against it, which the history keeps as well.
        by: Who does it; None: the user of this process.
        tracking_uri: Where MLflow records; None: as the sweep says, else SQLite in `storage`.
        note: Told what MLflow lacks where it could not be reached.

    Returns:
        The change, with its line.

    Raises:
        RegistryError: If it is champion already, its adapter is gone or damaged, no reason is
            given, or something speaks against it and `force` is not given. Nothing is changed.
    """
    _check_reason(reason)
    challenger = find_adapter(storage, reference)
    name = name or challenger.key.sweep
    _check_adapter(challenger)
    standing_of(storage, name, tracking_uri)  # what was done in MLflow meanwhile comes first
    with open_registry(storage) as registry:
        standing = _standing(registry, storage, name)
        if challenger.key.is_same(standing.champion) and not _may_confirm(standing):
            raise RegistryError(f"{challenger.key.reference} is the champion of {name!r} already.")
        known = standing.champion
        current = None if known is None else _open_if_there(storage, known)
        wrong = against(current, challenger)
        if known is not None and current is None:
            wrong.insert(0, f"the card of the champion {known.reference} cannot be read here")
        if wrong and not force:
            raise RegistryError(
                f"{challenger.key.reference} was not promoted: {'; '.join(wrong)}. Add --force "
                "with a reason, and the history keeps both."
            )
        made = registry.append(
            Change(
                "promoted", name, who=by or who_am_i(), reason=reason, adapter=challenger.key,
                before=known, overridden=tuple(wrong), evidence=evidence_of(challenger.card),
            )
        )  # fmt: skip
    apply(storage, name, tracking_uri=tracking_uri, note=note)
    return made


def rollback(
    storage: Path,
    name: str,
    *,
    reason: str,
    by: str | None = None,
    tracking_uri: str | None = None,
    note: Callable[[str], None] = _silent,
) -> Change:
    """Make the champion before this one champion again, in the registry and then in MLflow.

    Args:
        storage: The storage folder.
        name: Whose champion.
        reason: Why, in words that the history keeps.
        by: Who does it; None: the user of this process.
        tracking_uri: As of `promote`.
        note: As of `promote`.

    Returns:
        The change, with its line. Another roll-back goes further back.

    Raises:
        RegistryError: If there was none before, or its adapter is gone or damaged.
    """
    _check_reason(reason)
    standing_of(storage, name, tracking_uri)
    with open_registry(storage) as registry:
        standing = _standing(registry, storage, name)
        target = standing.previous
        if target is None:
            raise RegistryError(
                f"{name!r} has had no other champion to go back to. `orchestrate champion history "
                f"{name}` shows all; `champion promote` names any adapter."
            )
        found = open_adapter(storage, target)
        _check_adapter(found)
        made = registry.append(
            Change(
                "rolled_back", name, who=by or who_am_i(), reason=reason, adapter=target,
                before=standing.champion, evidence=evidence_of(found.card),
            )
        )  # fmt: skip
    apply(storage, name, tracking_uri=tracking_uri, note=note)
    return made


def apply(
    storage: Path, name: str, *, tracking_uri: str | None, note: Callable[[str], None]
) -> None:
    """Let MLflow show the champion that the registry names; what it lacks is told.

    Args:
        storage: The storage folder.
        name: Whose champion.
        tracking_uri: Where MLflow records.
        note: Told what MLflow lacks. It catches up when a sweep, `report` or `ui` next speaks to
            it.
    """
    opening = read_opening(storage / name)
    try:
        uri = recorded_uri({} if opening is None else opening.experiment, storage, tracking_uri)
        try:
            note(put_champion(uri, storage, name))
        except MissingRunError:
            _project(uri, storage, name)
            note(put_champion(uri, storage, name))
    except (TrackingError, AdapterFolderError) as error:
        note(f"the registry of {storage} has it, and MLflow lags behind: {error}")


def _project(uri: str, storage: Path, name: str) -> None:
    """Bring the champion's sweep into MLflow, unless its driver does that."""
    key = standing_of(storage, name, uri).champion
    folder = None if key is None else folder_of(storage, key.sweep, key.sweep_id)
    if folder is not None and not is_being_written(folder):
        Projection(uri, folder).catch_up(read_journal(folder), running=False)


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise RegistryError("A reason is needed, which the history keeps: `--reason TEXT`.")


def _check_adapter(found: FoundAdapter) -> None:
    """Refuse an adapter whose files are not those that the journal vouches for."""
    place, key = found.place, found.key
    if place is None:
        raise RegistryError(
            f"No adapter was kept of {key.reference}: one as large as its base is kept after the "
            "last task alone."
        )
    wrong = "it is missing" if not place.is_dir() else None
    wrong = wrong or adapter_flaw(place, key.adapter_sha256, key.trial)
    if wrong is not None:
        raise RegistryError(
            f"The adapter of {key.reference} in {place} is not used: {wrong}. Restore it from a "
            "copy."
        )


def _may_confirm(standing: Standing) -> bool:
    """Whether promoting the champion says something new: that a verdict's stays by hand, or not."""
    return standing.current is not None and standing.current.event in {"withdrawn", "moved"}


def _standing(registry: OpenRegistry, storage: Path, name: str) -> Standing:
    """What the registry says of a name, with the verdict of a journal that it did not know."""
    standing = Standing.of(name, registry.changes)
    if standing.current is None:
        verdict = verdict_in_journal(storage / name)
        if verdict is not None:
            standing.take(registry.append(replace(verdict, n=-1, time=None)))
    return standing


def _open_if_there(storage: Path, key: AdapterKey) -> FoundAdapter | None:
    with suppress(RegistryError):
        return open_adapter(storage, key)
    return None
