"""How a sweep begins beside what is there, and goes on: what is retried, and what is recorded."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.records.cards.pruned import pruned_words
from orchestrator.records.events import SweepContinued
from orchestrator.records.journal_facts import versions
from orchestrator.records.model_folder import adapter_flaw
from orchestrator.records.opening import read_opening
from orchestrator.records.sweep_folder import SweepFolder, holds_trials, sweep_folder
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.protocols import Observer
from orchestrator.sweep.provenance import differing_versions
from orchestrator.sweep.run_options import SweepOptions
from orchestrator.system.stores.opening import opened


def has_begun(experiment: Experiment) -> bool:
    """Whether there is a sweep of this name that searches this space, so that it can be continued.

    Args:
        experiment: The experiment as the file has it now.

    Returns:
        False as well where it cannot be told.
    """
    storage = opened(experiment.storage).resolve()
    opening = read_opening(sweep_folder(storage, experiment.name, new=False))
    now = experiment.search
    if opening is None or now is None:
        return False
    try:
        begun = SearchSpec.model_validate(opening.experiment["search"])
    except (ValidationError, KeyError):
        return False
    return (begun.space, begun.first) == (now.space, now.first)


def retried_trials(state: SweepState, folder: Path, options: SweepOptions) -> list[str]:
    """The trials that start over; the base always, as nothing is judged without row 0."""
    trials, inside = state.everything, SweepFolder(folder)
    failed = [name for name, trial in trials.items() if trial.state == "FAILED"]
    if not options.retry_failed:
        return [name for name in failed if name == BASE_TRIAL]
    lost = [
        name
        for name, trial in trials.items()
        if trial.adapter
        # What was pruned is no loss, and nothing needs it.
        and pruned_words(inside.within(trial.adapter)) is None
        and adapter_flaw(inside.within(trial.adapter), trial.adapter_sha256, name) is not None
    ]
    return [*failed, *lost]


def continuation(
    state: SweepState,
    observer: Observer,
    provenance: Mapping[str, Any],
    retried: Sequence[str],
    *,
    search: SearchSpec | None,
) -> SweepContinued:
    """That a sweep goes on, to be recorded; what is not as it was is said."""
    named, trials = None, 1
    if search is not None:
        trials = None if search.open_ended else search.count
    if not state.sweep_id:
        named = uuid.uuid4().hex
        observer.note(
            "this sweep was begun before checksums: what its trials have left is not verified"
        )
    changes = differing_versions(state.versions, versions(provenance))
    if changes:
        observer.note(
            f"not as before: {', '.join(changes)}; each trial's record says what it was made with"
        )
    return SweepContinued(
        trials=trials,
        time_budget=search.time_budget if search is not None else None,
        compute_budget=search.compute_budget if search is not None else None,
        retried=list(retried),
        base=provenance["base"],
        **{key: provenance[key] for key in ("code", "packages", "python", "platform")},
        sweep_id=named,
    )


def without_journal(folder: Path) -> str:
    """What to do about a sweep's folder that has no journal, or an empty one."""
    journal = SweepFolder(folder).journal
    return (
        f"{folder} holds trials, and {journal.name} is missing or empty, so that it is not known "
        "which sweep they are of and what they scored. Nothing was changed. Restore "
        f"{journal.name} from a copy and give the same command; or start another sweep beside it "
        "with `--new`; or, if these trials are not needed, move the folder away or remove it."
    )


def refuse_leftovers(folder: Path) -> None:
    """Let no sweep begin in a folder that holds what trials have left.

    Args:
        folder: Its folder, where there is no journal.

    Raises:
        SweepError: If it does; one message with the choices.
    """
    if holds_trials(folder):
        raise SweepError(without_journal(folder))
