"""What the index holds of a sweep: a document for lists, made of what all its trials share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.records.sweep_state import SweepState


@dataclass(frozen=True)
class Counted:
    """What is counted over a sweep's trials."""

    states: Mapping[str, int]
    """How many are in each state."""
    searched: int
    best: tuple[str, float | None] | None
    """The best of the trials that are over, and its gain; see `SweepState.best`."""
    seconds: float = 0.0
    """Of all trials."""
    core_seconds: float | None = None
    """Of all trials, as far as it is known."""
    hypervolume: float | None = None
    """See `pareto.covered`."""


def sweep_document(state: SweepState, counted: Counted) -> dict[str, Any]:
    """One sweep of a list.

    Args:
        state: The sweep; of its trials, only the untouched base need be in it.
        counted: What is counted over them.

    Returns:
        A JSON-like document, without what depends on where the folder is.
    """
    trials = sum(counted.states.values())
    best = counted.best or (None, None)
    spent, reading = state.spent, state.reading
    champion = state.champion or ""
    return {
        "experiment": state.name,
        "kind": state.kind,
        "state": "ended" if state.ended else "unfinished",
        "opened": state.opened,
        "changed": state.changed,
        "trials_finished": trials
        - sum(counted.states.get(name, 0) for name in ("PROPOSED", "RUNNING")),
        "trials_failed": counted.states.get("FAILED", 0),
        "trials_planned": state.planned(trials, counted.searched),
        "tasks": state.tasks,
        "best": best[0],
        "best_gain": best[1],
        "champion": state.champion,
        "identity": state.identity,
        "base": (state.experiment.get("model") or {}).get("name"),
        "base_sha256": state.base_sha256,
        "ended": state.verdict.time if state.verdict else None,
        "trials_by_state": dict(counted.states),
        "front": state.front,
        "hypervolume": counted.hypervolume,
        "trial_seconds": counted.seconds,
        "core_seconds": spent.core_seconds or counted.core_seconds,
        "test_gain": reading.gain.get(champion) if reading else None,
        "test_gain_interval": reading.gain_intervals.get(champion) if reading else None,
        "reason": state.reason,
        "runner_up": state.runner_up,
        "objectives": dict(state.experiment.get("objectives") or {}),
        "searched_settings": state.searched_settings,
        "spent": {
            "seconds": spent.seconds, "core_seconds": spent.core_seconds,
            "gpu_seconds": spent.gpu_seconds,
        },
        "model": state.model,
        "version": state.version,
        "data_sha256": _data_hashes(state),
    }  # fmt: skip


def _data_hashes(state: SweepState) -> dict[str, Any]:
    """By task, what vouches for its data as it was read when the sweep began."""
    data = state.provenance.get("data") or {}
    return dict(data) if isinstance(data, Mapping) else {}
