"""The verdict of a sweep as a change of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.records.cards.card import adapter_card, adapter_key
from orchestrator.records.registry.change import BY_VERDICT, Change
from orchestrator.records.registry.in_use import Decided, in_use_of
from orchestrator.records.registry.registry_file import OpenRegistry
from orchestrator.records.registry.standing import Standing
from orchestrator.records.sweep_state import SweepState


def verdict_change(state: SweepState) -> Change | None:
    """What the last verdict of a sweep says of the champion.

    Args:
        state: The sweep.

    Returns:
        The change, which no registry holds yet; None without a champion that has an adapter.
    """
    verdict = state.last_verdict
    if verdict is None or verdict.champion is None:
        return None
    trial, count = state.trial(verdict.champion), len(state.tasks)
    if not trial.adapter:
        return None
    return Change(
        "decided",
        state.name,
        who=BY_VERDICT,
        reason=verdict.reason,
        adapter=adapter_key(state, trial, count),
        evidence=evidence_of(adapter_card(state, trial, count))
        | {"journal_line": verdict.n, "verdict_time": verdict.time},
        time=verdict.time,
    )


def in_use_beside(state: SweepState, folder: Path) -> dict[str, Any] | None:
    """What is in use under the name of a sweep, see `in_use`.

    Args:
        state: The sweep.
        folder: Its folder, in its storage folder.

    Returns:
        As the registry of the storage folder says it now.
    """
    ended = state.verdict.time if state.verdict else None
    decided = Decided(folder.name, state.identity, state.champion, ended)
    return in_use_of(folder.parent, decided)


def evidence_of(card: dict[str, Any]) -> dict[str, Any]:
    """What a card says for an adapter: measures, scores on every task with intervals, test."""
    rows = card["matrix"]
    return {
        "measures": card["measures"],
        "gain_interval": card["gain_interval"],
        "scores": rows[-1]["scores"] if rows else {},
        "test": card["test"],
        "journal_line": card["journal_line"],
    }


def note_verdict(registry: OpenRegistry, state: SweepState, *, latest: bool) -> Standing:
    """Let the registry know of the last verdict of a sweep, once.

    It makes its trial champion unless a person chose another one since, or another sweep of the
    name was decided later.

    Args:
        registry: The storage folder's, open.
        state: The sweep.
        latest: The verdict is of this moment, so that it is the latest whatever clocks say.

    Returns:
        What the registry says of the sweep's name then.
    """
    standing = Standing.of(state.name, registry.changes)
    change = verdict_change(state)
    if change is None or _is_known(standing, change):
        return standing
    later = latest or standing.decided is None or not _is_before(change, standing.decided)
    known = standing.current
    stands = later and not standing.by_hand
    made = registry.append(
        Change(
            "decided", change.name, who=change.who, reason=change.reason, adapter=change.adapter,
            before=None if known is None else known.adapter, stands=stands,
            evidence=change.evidence,
        )
    )  # fmt: skip
    standing.take(made)
    return standing


def _is_known(standing: Standing, change: Change) -> bool:
    assert change.adapter is not None, "a verdict's change has its champion"
    wanted = (change.adapter.sweep_id, change.evidence["journal_line"])
    return any(
        known.event == "decided"
        and known.adapter is not None
        and (known.adapter.sweep_id, known.evidence.get("journal_line")) == wanted
        and known.adapter.is_same(change.adapter)
        for known in standing.changes
    )


def _is_before(change: Change, other: Change) -> bool:
    """Whether a verdict is older: by their lines in one sweep, by the clock otherwise."""
    assert change.adapter is not None, "a verdict's change has its champion"
    assert other.adapter is not None, "a verdict's change has its champion"
    same = change.adapter.sweep_id == other.adapter.sweep_id
    key = "journal_line" if same else "verdict_time"
    return (change.evidence.get(key) or 0) < (other.evidence.get(key) or 0)
