"""Something that broke while trials ran, as an executor tells the driver; the sweep goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Fault:
    """What broke, and whose work may be lost."""

    what: str
    """Its kind, see `records/faults/fault_events.py`."""
    where: str
    because: str
    trials: Sequence[str] = ()
    """Those that were at work there, which go on from their last reports."""


TellFault: TypeAlias = Callable[[Fault], None]
