"""What earlier sweeps found, as prior knowledge of a search (`search.warm_start`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.reach import refusal
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.proposing.search import PastTrial
from orchestrator.sweep.proposing.terms import in_space
from orchestrator.system.wording import suggestion


def prior_trials(
    experiment: Experiment, provenance: Mapping[str, Any], storage: Path
) -> tuple[list[PastTrial], list[str]]:
    """The trials of earlier sweeps that the space of this one holds.

    Args:
        experiment: The sweep's.
        provenance: The hashes of its base and data.
        storage: The folder that sweeps are kept in.

    Returns:
        Whole trials, as the searcher learns of them; and a sentence for each sweep.

    Raises:
        SweepError: If a sweep is not there, or has another base or other tasks.
    """
    search = experiment.search
    found: list[PastTrial] = []
    told: list[str] = []
    for name in search.warm_start if search is not None else ():
        state = SweepState.of(read_journal(storage / name), whole=False)
        if not state.name:
            known = sorted(path.parent.name for path in storage.glob("*/journal.jsonl"))
            raise SweepError(
                f"`search.warm_start` names {name!r}, and there is no such sweep in {storage}."
                f"{suggestion(name, known)} Sweeps there: {', '.join(known) or 'none'}."
            )
        differs = _differs(experiment, provenance, state)
        if differs is not None:
            raise SweepError(
                f"`search.warm_start` names {name!r}, whose scores say nothing of this sweep: "
                f"{differs}. Remove it."
            )
        whole = [trial for trial in state.searched if trial.state == "COMPLETE"]
        own = [past for trial in whole if (past := _past(experiment, state, trial)) is not None]
        found += own
        told.append(
            f"the searcher knows {len(own)} of {len(whole)} whole trials of {name}; the others "
            "are outside the space, or lack an objective"
        )
    return found, told


def _differs(
    experiment: Experiment, provenance: Mapping[str, Any], state: SweepState
) -> str | None:
    """What makes the scores of a sweep those of something else; None where nothing does."""
    if state.base_sha256 != provenance["base"]["sha256"]:
        return "it has another base model"
    if state.tasks != list(experiment.tasks):
        return f"its tasks are {', '.join(state.tasks)}"
    hashes = state.provenance.get("data", {})
    other = [task for task in experiment.tasks if hashes.get(task) != provenance["data"][task]]
    return f"the data of {', '.join(other)} are others" if other else None


def _past(experiment: Experiment, state: SweepState, trial: TrialRecord) -> PastTrial | None:
    """A trial in the terms of this space; None where it has no place there."""
    search = experiment.search
    assert search is not None, "it names the sweep"
    settings = {**state.settings(trial), **trial.overrides}
    values = {name: trial.searched_measure(name) for name in experiment.objectives}
    if not all(map(math.isfinite, values.values())):
        return None
    overrides = in_space(search.space, settings)
    if overrides is None or refusal(experiment, overrides) is not None:
        return None
    return PastTrial(f"{state.name}/{trial.name}", overrides, "COMPLETE", values)
