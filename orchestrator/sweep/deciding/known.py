"""What a driver knows before it begins, besides the file, the journal and the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.records.sweep_state import SweepState

if TYPE_CHECKING:
    from orchestrator.sweep.proposing.search import PastTrial


@dataclass(frozen=True)
class Known:
    """What a driver knows before it begins."""

    state: SweepState | None = None
    """What all lines of the journal say, without series, of which nobody else writes; None: the
    driver reads them."""
    prior: Sequence[PastTrial] = ()
    """Trials of other sweeps that the searcher learns from."""
    follows_from: Mapping[str, Any] | None = None
    """What numbers follow from besides settings and data, so that trials can take over what others
    have learnt; None: they do not."""


NOTHING = Known()
