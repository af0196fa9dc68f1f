"""Who is champion, since when and why: from the registry, the card, and a look at MLflow."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.errors import RegistryError, TrackingError
from orchestrator.records.journal_lines import JOURNAL_NAME
from orchestrator.records.mlflow.address import recorded_uri
from orchestrator.records.mlflow.glance.look import look
from orchestrator.records.opening import read_opening
from orchestrator.records.redaction import redacted
from orchestrator.records.registry.by_hand import change_by_hand
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.registry_file import open_registry, read_changes
from orchestrator.records.registry.standing import Standing
from orchestrator.records.registry.verdicts import verdict_change
from orchestrator.registry.champions.adapters import FoundAdapter, open_adapter
from orchestrator.registry.index.index import Index, open_index
from orchestrator.registry.part import adapter_part, part_of
from orchestrator.system.formatting import moment
from orchestrator.system.wording import suggestion

_LOOK_SECONDS = 0.2
"""How long a command that only looks waits for another one to write what both have seen."""


@dataclass(frozen=True)
class Champion:
    """The adapter in use under a name."""

    name: str
    since: Change
    """The change that made it champion."""
    found: FoundAdapter
    version: str | None
    """Its version in MLflow's registry; None where it is not known to be there."""
    by_hand: bool
    """Whether a person chose it, so that no verdict takes its place."""
    challenger: AdapterKey | None
    """What the last verdict chose, where that is another adapter."""
    previous: AdapterKey | None
    """What a roll-back would go to."""
    unasked: str | None = None
    """Why MLflow could not be asked whether the alias was moved there, and since when that is not
    known, a sentence; None where it was asked, or has nothing to say."""

    @property
    def key(self) -> AdapterKey:
        """Which adapter it is."""
        return self.found.key


def champion(storage: Path, name: str, *, tracking_uri: str | None = None) -> Champion:
    """The champion of a name.

    What somebody did with the alias in MLflow is seen, in SQLite or on a server, and noted in the
    registry.

    Args:
        storage: The storage folder.
        name: The sweep's name.
        tracking_uri: Where MLflow records; None: as the sweep says, else SQLite in `storage`.

    Returns:
        The champion with its card.

    Raises:
        RegistryError: If there is none, or its sweep is not there.
    """
    standing, unasked = looked(storage, name, tracking_uri)
    current = standing.current
    if current is None:
        raise RegistryError(no_champion(storage, name))
    if current.adapter is None:
        raise RegistryError(_foreign(name, current))
    found, decided = open_adapter(storage, current.adapter), standing.decided
    other = decided.adapter if decided is not None else None
    return Champion(
        name, current, found, standing.version_of(current.adapter), standing.by_hand,
        None if other is None or other.is_same(current.adapter) else other, standing.previous,
        unasked,
    )  # fmt: skip


def history(storage: Path, name: str, *, tracking_uri: str | None = None) -> list[Change]:
    """Everything that became of the champions of a name, oldest first.

    Args:
        storage: The storage folder.
        name: The sweep's name.
        tracking_uri: As of `champion`.

    Returns:
        Verdicts, promotions, roll-backs, and what was done in MLflow; without the lines that only
        say which version MLflow has of an adapter.

    Raises:
        RegistryError: If nothing is known of that name.
    """
    standing = standing_of(storage, name, tracking_uri)
    shown = [change for change in standing.changes if change.event != "shown"]
    if not shown:
        raise RegistryError(no_champion(storage, name))
    return shown


def champion_names(storage: Path, index: Index | None = None) -> list[str]:
    """The names that have or had a champion, sorted.

    Args:
        storage: The storage folder.
        index: Its index, open; None: as its journals are now.

    Returns:
        Those of the registry, and of sweeps that have ended with a verdict that no registry
        knows yet.
    """
    if index is None:
        with open_index(storage) as index:
            return champion_names(storage, index)
    # A sweep that was begun anew has another folder, and no name of its own.
    decided = {
        row["sweep"]
        for row in index.sweeps()
        if row.get("champion") and row["experiment"] == row["sweep"]
    }
    return sorted(decided | {change.name for change in read_changes(storage)})


def standing_of(storage: Path, name: str, tracking_uri: str | None = None) -> Standing:
    """What the registry says of a name; see `looked`."""
    return looked(storage, name, tracking_uri)[0]


def looked(
    storage: Path, name: str, tracking_uri: str | None = None
) -> tuple[Standing, str | None]:
    """What the registry says of a name; of a sweep that it does not know, the journal's verdict.

    Args:
        storage: The storage folder.
        name: The sweep's name.
        tracking_uri: As of `champion`.

    Returns:
        All changes of the name, what was done in MLflow meanwhile among them; and a sentence where
        MLflow could not be asked for that.
    """
    standing = Standing.of(name, read_changes(storage))
    if standing.decided is None and standing.current is None:
        verdict = verdict_in_journal(storage / name)
        if verdict is not None:
            standing = Standing.of(name, [verdict, *standing.changes])
    uri = _uri(storage, name, tracking_uri)
    if uri is None:
        return standing, _unasked(standing, "MLflow", "its address has a password, kept by none")
    found = look(uri, storage, name)
    by_hand = None if found.seen is None else change_by_hand(standing, found.seen)
    if by_hand is not None:
        standing.take(_noted(storage, by_hand))
    if found.unasked is None:
        return standing, None
    return standing, _unasked(standing, f"MLflow at {redacted(uri)}", found.unasked)


def _unasked(standing: Standing, what: str, why: str) -> str:
    """That MLflow was not asked, and how old what is known of it is."""
    last = standing.last_of_alias or standing.current
    since = "" if last is None else f" since {moment(last.time)}"
    return f"{what} was not asked ({why}): whether the alias was moved there{since} is not known."


def verdict_in_journal(folder: Path) -> Change | None:
    """The champion of a sweep's last verdict, of a journal that no registry knows yet.

    Args:
        folder: The sweep's folder.

    Returns:
        The change, of no line; None without a champion.
    """
    if not (folder / JOURNAL_NAME).is_file():
        return None
    with open_index(folder.parent) as index:
        _, state = part_of(index, folder.name, [])
        if state.last_verdict is None or state.last_verdict.champion is None:
            return None
        return verdict_change(adapter_part(index, folder.name, [state.last_verdict.champion])[1])


def _noted(storage: Path, change: Change) -> Change:
    """A change with its line; as it is where the registry cannot be written now."""
    try:
        with open_registry(storage, wait_s=_LOOK_SECONDS) as registry:
            known = [c for c in registry.changes if c.name == change.name and c.sets]
            last = known[-1] if known else None
            if last is not None and (last.event, last.version) == (change.event, change.version):
                return last  # another command has seen it meanwhile
            return registry.append(change)
    except RegistryError:
        return change  # a storage folder that is only read, such as an archive


def _uri(storage: Path, name: str, tracking_uri: str | None) -> str | None:
    """Where MLflow records a sweep; None where its address had a password, which nobody keeps."""
    opening = read_opening(storage / name)
    with suppress(TrackingError):
        return recorded_uri({} if opening is None else opening.experiment, storage, tracking_uri)
    return None


def no_champion(storage: Path, name: str) -> str:
    """That nobody was ever champion of a name, for whoever asked: the nearest, and all there are.

    Args:
        storage: The storage folder.
        name: The name, as it was asked for.

    Returns:
        A message.
    """
    if (storage / name / JOURNAL_NAME).is_file():
        return (
            f"No adapter of {name!r} in {storage} was ever champion: no verdict has chosen one "
            f"(`orchestrate runs show {name}` says why). `orchestrate champion promote "
            f"{name}/TRIAL --reason TEXT` makes one champion."
        )
    known = champion_names(storage)
    return (
        f"No champion {name!r} in {storage}.{suggestion(name, known)} "
        f"There: {', '.join(known) or 'none'}. Give the folder of the sweeps with `--storage`."
    )


def _foreign(name: str, current: Change) -> str:
    if current.event == "withdrawn":
        return (
            f"{name} has no champion: the alias was taken away in MLflow. `orchestrate champion "
            f"rollback {name} --reason TEXT` or `champion promote` gives it to an adapter again."
        )
    return (
        f"The champion of {name!r} is MLflow's version {current.version}, which was made "
        "elsewhere: it names no sweep of this storage folder. `orchestrate champion history "
        f"{name}` shows who was champion before."
    )
