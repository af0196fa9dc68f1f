"""The sweeps of a storage folder, and which trials of theirs nobody may prune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.records.errors import JournalError
from orchestrator.records.event import Line
from orchestrator.records.journal import is_being_written
from orchestrator.records.journal_lines import JOURNAL_NAME, read_journal
from orchestrator.records.mlflow.address import DATABASE_NAME, recorded_uri
from orchestrator.records.mlflow.pruning import registered_trials
from orchestrator.records.registry.registry_file import read_changes
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.system.stores.mirror import mirror_of
from orchestrator.system.user_error import UserError


class PruneError(UserError, RuntimeError):
    """Something that cannot be pruned safely; the message says why and what to do."""


@dataclass
class OldSweep:
    """A sweep of a storage folder."""

    folder: SweepFolder
    state: SweepState
    busy: bool
    """Whether a driver writes its journal now."""
    uri: str | None
    """Where MLflow records it; None where nothing was recorded."""
    protected: dict[str, str] = field(default_factory=dict[str, str])
    """The trials whose adapters stay, each with the reason."""
    chosen: set[str] = field(default_factory=set[str])
    """Those of them that are or were champion, or were registered: all that they carry stays."""

    def protect(self, trial: str | None, why: str, *, chosen: bool = False) -> None:
        """Let a trial stay; its first reason counts. The untouched base has nothing to prune."""
        if trial and trial != BASE_TRIAL and trial in self.state.everything:
            self.protected.setdefault(trial, why)
            if chosen:
                self.chosen.add(trial)


def old_sweeps(storage: Path, tracking_uri: str | None) -> dict[str, OldSweep]:
    """Every sweep of a storage folder, with what must stay of it.

    Args:
        storage: The folder.
        tracking_uri: Where MLflow records; None: as each sweep says.

    Returns:
        By the name of its folder.

    Raises:
        PruneError: A journal is damaged: what it needs of others cannot be known.
        TrackingError: MLflow, which knows aliases, cannot be asked.
    """
    if (mirror := mirror_of(storage)) is not None:
        raise PruneError(
            f"What lies in {mirror.address} is not pruned by this command; nothing was removed. "
            "Remove the adapters (`SWEEP/trials/TRIAL/adapter.tar`) or the folder of a sweep with "
            "the store's own tools."
        )
    found: dict[str, OldSweep] = {}
    for journal in sorted(storage.glob(f"*/{JOURNAL_NAME}")):
        place = journal.parent
        busy = is_being_written(place)
        try:
            lines = read_journal(place)
        except JournalError as error:
            raise PruneError(f"Nothing is pruned, as another sweep may need it: {error}") from error
        if not lines:
            continue
        state = SweepState.of(lines, whole=False)
        sweep = OldSweep(SweepFolder(place), state, busy, _uri(state, storage, tracking_uri))
        _protect_own(sweep, lines)
        found[place.name] = sweep
    _protect_registered(found)
    _protect_promoted(found, storage)
    _protect_ancestors(found)
    for sweep in found.values():
        _protect_prefixes(sweep)
    return found


def _uri(state: SweepState, storage: Path, tracking_uri: str | None) -> str | None:
    own = tracking_uri or (state.experiment.get("tracking") or {}).get("uri")
    if not own and not (storage / DATABASE_NAME).is_file():
        return None
    return recorded_uri(state.experiment, storage, tracking_uri)


def _protect_own(sweep: OldSweep, lines: list[Line]) -> None:
    """What a sweep's own journal names: all verdicts, finalists, readings, registrations."""
    for line in lines:
        match line["event"]:
            case "sweep_ended":
                sweep.protect(line.get("champion"), "it is or was champion", chosen=True)
            case "champion_registered":
                sweep.protect(line.get("trial"), "it was registered", chosen=True)
            case _:
                pass
    state = sweep.state
    sweep.protect(state.runner_up, "it is runner-up")
    for trial in state.front:
        sweep.protect(trial, "it is on the front")
    for finalist in state.finalists:
        sweep.protect(finalist.trial, "it is a finalist")
    for reading in state.readings:
        for trial in reading.sides:
            sweep.protect(trial, "its test scores were read")


def _protect_registered(sweeps: Mapping[str, OldSweep]) -> None:
    by_identity = {sweep.state.identity: sweep for sweep in sweeps.values()}
    for uri in sorted({sweep.uri for sweep in sweeps.values() if sweep.uri}):
        for identity, trial in registered_trials(uri):
            if identity in by_identity:
                by_identity[identity].protect(trial, "a version in MLflow is of it", chosen=True)


def _protect_promoted(sweeps: Mapping[str, OldSweep], storage: Path) -> None:
    """What was ever champion by hand, and what it took the place of: one may go back to it."""
    by_identity = {sweep.state.identity: sweep for sweep in sweeps.values()}
    for change in read_changes(storage):
        for key in (change.adapter, change.before):
            if key is not None and key.sweep_id in by_identity:
                sweep = by_identity[key.sweep_id]
                sweep.protect(key.trial, "it is in the history of a champion", chosen=True)


def _protect_ancestors(sweeps: Mapping[str, OldSweep]) -> None:
    by_identity = {sweep.state.identity: sweep for sweep in sweeps.values()}
    for name, sweep in sweeps.items():
        extends = sweep.state.experiment.get("extends") or {}
        parent = by_identity.get(str(extends.get("sweep_id")))
        if parent is not None:
            parent.protect(str(extends.get("trial")), f"{name} goes on from it", chosen=True)


def _protect_prefixes(sweep: OldSweep) -> None:
    """What a trial that stays has taken over from others, and so on."""
    waiting = list(sweep.protected)
    while waiting:
        name = waiting.pop()
        for other in sweep.state.everything[name].taken_over.values():
            trial = other.rpartition("/")[2]
            if trial not in sweep.protected:
                sweep.protect(trial, f"{name} has taken over what it learnt")
                waiting += [trial] if trial in sweep.protected else []
