"""What differs between two trials, two adapters or two sweeps, by the names that a user gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.api.card_differences import diff_cards
from orchestrator.api.differences import diff_sweeps, diff_trials
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import TrialRecord
from orchestrator.registry.champions.adapters import find_adapter
from orchestrator.registry.index.index import Index, open_index
from orchestrator.registry.part import part_of
from orchestrator.system.user_error import UsageError


def diff(left: str, right: str, storage: Path | str = "runs") -> dict[str, Any]:
    """The differences of two trials, adapters or sweeps.

    Args:
        left: `SWEEP/TRIAL`, `SWEEP/TRIAL@TASK` (or `@2`: after its second task), or `SWEEP`.
        right: Another; differences are right minus left. Beside an adapter after a task, a trial
            without one is the adapter after its last task.
        storage: The folder that sweeps are kept in.

    Returns:
        See `diff_cards`, `diff_trials` and `diff_sweeps`.

    Raises:
        UsageError: There is no such sweep, trial or adapter, or a sweep is given beside a trial.
    """
    place = Path(storage)
    if ("/" in left) != ("/" in right):
        raise UsageError(
            f"Two trials (SWEEP/TRIAL), two adapters (SWEEP/TRIAL@TASK) or two sweeps can be "
            f"compared, got {left!r} and {right!r}."
        )
    if is_of_cards(left, right):
        return diff_cards(find_adapter(place, left), find_adapter(place, right))
    with open_index(place) as index:
        (one, trial), (other, challenger) = (_found(index, name) for name in (left, right))
    if trial is None or challenger is None:
        return diff_sweeps(one, other)
    return diff_trials((one, trial), (other, challenger))


def is_of_cards(left: str, right: str) -> bool:
    """Whether adapters are compared, because one of them is after a named task."""
    return any("@" in name.partition("/")[2] for name in (left, right))


def _found(index: Index, name: str) -> tuple[SweepState, TrialRecord | None]:
    sweep, slash, trial = name.partition("/")
    wanted = trial if slash else index.sweeps([sweep])[0]["best"]
    _, view = part_of(index, sweep, [wanted] if wanted is not None else [])
    # Two folders may hold sweeps of one name; the folder is what the user typed.
    view.name = sweep
    return view, view.trial(trial) if slash else None
