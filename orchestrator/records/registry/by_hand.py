"""What people did with the alias `champion` in MLflow, told from what we did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.registry.change import BY_MLFLOW, Change
from orchestrator.records.registry.standing import Standing


@dataclass(frozen=True)
class AliasSeen:
    """The alias of a registered model as MLflow has it."""

    model: str
    version: str | None
    """The version that has it; None: none has."""
    ours: str | None
    """The version that we gave it to last; None where we never did."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Those of that version, without the `orchestrator.` that ours begin with."""


def change_by_hand(standing: Standing, seen: AliasSeen) -> Change | None:
    """What a person did with the alias, which the registry does not know yet.

    Args:
        standing: What the registry says of the name.
        seen: What MLflow says.

    Returns:
        The change; None where the alias is where we put it, or what became of it is known.
    """
    if seen.ours is None or seen.version == seen.ours:
        return None
    current, last = standing.current, standing.last_of_alias
    before = None if current is None else current.adapter
    if seen.version is None:
        if last is not None and last.event == "withdrawn":
            return None
        return Change("withdrawn", standing.name, who=BY_MLFLOW, before=before,
                      reason="the alias was taken away in MLflow")  # fmt: skip
    if last is not None and (last.event, last.version) == ("moved", seen.version):
        return None
    adapter = _adapter_of(seen.tags)
    if adapter is not None and before is not None and adapter.is_same(before):
        return None
    return Change(
        "moved", standing.name, who=BY_MLFLOW, adapter=adapter, before=before,
        version=seen.version, reason="the alias was given to this version in MLflow",
    )  # fmt: skip


def _adapter_of(tags: Mapping[str, str]) -> AdapterKey | None:
    """The adapter that a version's tags name; None where it is none of ours."""
    # Earlier versions named the sweep by its folder, and the adapter after the last task alone.
    name = tags.get("name") or PurePath(tags.get("folder", "")).name
    if not tags.get("sweep") or not tags.get("trial") or not name:
        return None
    return AdapterKey(
        name, tags["sweep"], tags["trial"], int(tags.get("learnt") or 0),
        tags.get("task") or None, tags.get("adapter_sha256") or None,
    )  # fmt: skip
