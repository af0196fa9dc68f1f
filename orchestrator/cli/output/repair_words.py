"""What `orchestrate repair` has done, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.records.faults.fault_words import repair_lines
from orchestrator.system.formatting import count

if TYPE_CHECKING:
    from orchestrator.records.registry.registry_repair import RegistryRepair
    from orchestrator.sweep.repair import Repair


def repair_words(repair: Repair) -> list[str]:
    """A line for each thing that is known of the journal and the folder."""
    lines = [] if repair.journal is None else repair_lines(repair.journal)
    whole = "is whole" if repair.journal is None else "is whole again"
    lines.append(f"the journal {whole}: {count(repair.lines, 'line')}")
    lines += [
        f"{name}: the journal says nothing of it; what it left in the folder stays, and is used "
        "by the same trial alone"
        for name in repair.unknown
    ]
    return lines


def registry_words(repair: RegistryRepair) -> str:
    """What was done to the registry of champions."""
    whole = f"the registry is whole: {count(repair.lines, 'line')}"
    if not repair.cut:
        return whole
    return (
        f"{whole}; {repair.cut} bytes at its end were removed: a line that a crash cut short, "
        "which was never acknowledged"
    )
