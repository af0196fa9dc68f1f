"""The files of a sweep's cards: `trials/TRIAL/cards/after-N.json`, beside the adapters.

They are never the truth: whatever is missing or differs from the journal is written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from orchestrator.records.cards.card import adapter_card, card_text, carded
from orchestrator.records.cards.card_form import is_card
from orchestrator.records.event import Event
from orchestrator.records.events import (
    CellsScored,
    StageReported,
    TestRead,
    TrialEnded,
    TrialMeasured,
    TrialStarted,
)
from orchestrator.records.journal_facts import effective_experiment
from orchestrator.records.stage_report import DONE
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.experiment import Experiment
from orchestrator.system import durable
from orchestrator.system.strict_json import plain

_LARGEST = 64 << 20
"""Bytes of a card; a real one has some thousands."""
Key = tuple[str, int]
"""A trial, and how many tasks it had learnt."""


def touched_by(state: SweepState, event: Event) -> list[Key]:
    """The cards that an event has made or changed.

    Args:
        state: The sweep, which has taken the event.
        event: What happened last.

    Returns:
        Those that there are; empty for almost every event.
    """
    ends = False
    match event:
        case StageReported() if event.report.row is None or event.report.fraction != DONE:
            return []
        case StageReported() if event.trial != BASE_TRIAL:
            learnt = event.report.task_index + 1
            return [(event.trial, learnt)] * (learnt in carded(state, state.trial(event.trial)))
        case StageReported():
            # Row 0 stands in every card, and other trials may be ahead of it.
            names = list(state.everything)
        case TrialEnded():
            names, ends = [event.trial], True  # the others say nothing of how it ended
        case TrialStarted() | TrialMeasured() | CellsScored():
            names = [event.trial]
        case TestRead():
            names = [name for name in event.sides if name in state.everything]
        case _:
            return []
    least = len(state.tasks) if ends else 0
    return [(name, n) for name in names for n in carded(state, state.trial(name)) if n >= least]


def card_file(folder: SweepFolder, trial: str, learnt: int) -> Path:
    """Where the card of an adapter lies."""
    return folder.cards(trial) / f"after-{learnt}.json"


def card_texts(state: SweepState, keys: Iterable[Key]) -> Iterator[tuple[Key, str]]:
    """Some cards as their files have them; what a trial ran is worked out once."""
    for key, document in card_documents(state, keys, {}):
        yield key, card_text(document)


def card_documents(
    state: SweepState, keys: Iterable[Key], runs: MutableMapping[str, Experiment]
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Some cards, which no later event changes.

    Args:
        state: The sweep.
        keys: Which.
        runs: What trials ran, as far as it was worked out; others are added.

    Yields:
        Each with its key.

    Raises:
        TrackingError: If this version does not know the sweep's experiment.
    """
    for trial, learnt in keys:
        record = state.trial(trial)
        if trial not in runs:
            runs[trial] = effective_experiment(state.experiment, record.overrides)
        yield (trial, learnt), adapter_card(state, record, learnt, runs[trial])


def write_cards(folder: SweepFolder, state: SweepState, trials: Iterable[str]) -> int:
    """Bring the files of the cards of some trials to what the journal says; others are removed.

    Args:
        folder: The sweep's.
        state: Everything that its journal says.
        trials: Of which trials.

    Returns:
        How many were written or removed.

    Raises:
        OSError: If the disk refuses.
    """
    changed = 0
    for trial in trials:
        keys = [(trial, n) for n in carded(state, state.trial(trial))]
        wanted = {card_file(folder, *key): text for key, text in card_texts(state, keys)}
        for place, text in wanted.items():
            if not place.is_file() or place.read_text(encoding="utf-8") != text:
                durable.write(place, text)
                changed += 1
        for place in folder.cards(trial).glob("after-*.json"):
            if place not in wanted:
                durable.remove(place)
                changed += 1
    return changed


def read_card(place: Path) -> dict[str, Any] | None:
    """A card from its file.

    Args:
        place: The file.

    Returns:
        The card; None where there is none that this version can read, as it can be made again.
    """
    try:
        if not place.is_file() or place.stat().st_size > _LARGEST:
            return None
        found = plain(place.read_bytes())
    except (OSError, ValueError):
        return None
    return found if is_card(found) else None
