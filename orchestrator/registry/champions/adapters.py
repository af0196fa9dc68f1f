"""Adapters found by what a user writes or what the registry holds, with their cards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.records.cards.card import adapter_card, carded
from orchestrator.records.cards.card_files import card_file, read_card
from orchestrator.records.cards.reference import AdapterKey, learnt_of, split_reference
from orchestrator.records.errors import RegistryError
from orchestrator.records.opening import Opening, folder_of, read_opening
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.registry.begun import no_sweep
from orchestrator.registry.index.index import open_index
from orchestrator.registry.part import adapter_part
from orchestrator.system.user_error import UsageError


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter of a trial, and what is known of it."""

    folder: SweepFolder
    """Of its sweep."""
    key: AdapterKey
    card: dict[str, Any]
    """See docs/cards.md."""

    @property
    def place(self) -> Path | None:
        """Where the adapter lies; None where none was kept."""
        named = self.card["adapter"]["place"]
        return self.folder.within(named) if named else None


def find_adapter(storage: Path, reference: str) -> FoundAdapter:
    """The adapter that a user names.

    Args:
        storage: The storage folder.
        reference: `SWEEP/TRIAL`, or `SWEEP/TRIAL@TASK` with the task that it had learnt last, or
            with how many it had learnt.

    Returns:
        The adapter, with its card: from its file, else made from the journal.

    Raises:
        UsageError: If there is no such sweep or trial, or it has learnt no such task yet.
    """
    sweep, trial, task = split_reference(reference)
    opening = read_opening(storage / sweep)
    if opening is None:
        raise UsageError(no_sweep(sweep, storage))
    written = _cards_written(SweepFolder(opening.folder), opening, trial)
    for card in written:
        order = [*card["tasks"], *card["to_come"]]
        if card["learnt"] == learnt_of(task, order, reference):
            return _found(SweepFolder(opening.folder), card)
    return from_journal(opening.folder, trial, lambda order: learnt_of(task, order, reference))


def open_adapter(storage: Path, key: AdapterKey) -> FoundAdapter:
    """The adapter that the registry names, wherever its sweep's folder lies in the storage.

    Args:
        storage: The storage folder.
        key: Which adapter.

    Returns:
        The adapter, with its card.

    Raises:
        RegistryError: If its sweep is not in the storage folder.
        UsageError: If the journal there says nothing of it.
    """
    folder = folder_of(storage, key.sweep, key.sweep_id)
    if folder is None:
        raise RegistryError(
            f"The sweep of {key.reference} is not in {storage}: no journal there has its identity "
            f"{key.sweep_id}. Bring its folder back, or name the storage folder that holds it."
        )
    inside = SweepFolder(folder)
    card = read_card(card_file(inside, key.trial, key.learnt)) if key.learnt else None
    if card is not None and (card["sweep_id"], card["trial"]) == (key.sweep_id, key.trial):
        return _found(inside, card)
    return from_journal(folder, key.trial, lambda order: key.learnt or len(order))


def _cards_written(folder: SweepFolder, opening: Opening, trial: str) -> list[dict[str, Any]]:
    """The cards of a trial that lie beside its adapters, if they are of this sweep."""
    places = sorted(folder.cards(trial).glob("after-*.json"))
    found = [card for place in places if (card := read_card(place)) is not None]
    return [c for c in found if (c["sweep_id"], c["trial"]) == (opening.identity, trial)]


def _found(folder: SweepFolder, card: dict[str, Any]) -> FoundAdapter:
    last = not card["to_come"]
    key = AdapterKey(
        card["sweep"], card["sweep_id"], card["trial"], card["learnt"],
        None if last else card["tasks"][-1], card["adapter"]["sha256"],
    )  # fmt: skip
    return FoundAdapter(folder, key, card)


def from_journal(folder: Path, trial: str, learnt_in: Callable[[list[str]], int]) -> FoundAdapter:
    """Make a card that has no file: of an earlier version, or after a crash.

    Args:
        folder: The sweep's, in its storage folder.
        trial: The trial.
        learnt_in: From its tasks in their order to how many of them it had learnt.

    Returns:
        The adapter. Of a large journal only the lines of the trial are read, by the index.

    Raises:
        UsageError: If there is no such trial, or no adapter of it after so many tasks.
    """
    with open_index(folder.parent) as index:
        _, state = adapter_part(index, folder.name, [trial])
    record = state.trial(trial)
    learnt = learnt_in(state.order_of(record))
    there = carded(state, record)
    if learnt not in there:
        order = state.order_of(record)
        named = ", ".join(f"@{order[n - 1]}" for n in there) or "none"
        raise UsageError(
            f"Trial {trial!r} of {folder.name!r} has no adapter after {learnt} of its "
            f"{len(order)} tasks: it is {record.state.lower()}. Adapters kept of it: {named}."
        )
    return _found(SweepFolder(folder), adapter_card(state, record, learnt))
