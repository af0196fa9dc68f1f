"""What a member of the pool is told at its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MemberConfig:
    """What a member is told; Ray writes it into its own files, too."""

    experiment: dict[str, Any]
    """The sweep's, as `Experiment.for_workers` gives it."""
    folder: str
    """The sweep's."""
    shared: list[Any]
    """Holds the reference of the `PreparedData`."""
    expected: int
    """How many trials it is likely to be given at first."""
