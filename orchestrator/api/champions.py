"""Champions for Python and notebooks, as `orchestrate champion` has them."""

from __future__ import annotations

import logging
from pathlib import Path

from orchestrator.records.registry.change import Change
from orchestrator.registry.champions import champion as looking
from orchestrator.registry.champions import changing, comparison
from orchestrator.registry.champions.champion import Champion
from orchestrator.registry.champions.comparison import Comparison
from orchestrator.system.stores.opening import opened

_log = logging.getLogger(__name__)


def champion(name: str, storage: Path | str = "runs") -> Champion:
    """The champion of a name: `key`, `since`, and `found.card`; see docs/champions.md.

    Args:
        name: The sweep's name.
        storage: The folder that sweeps are kept in.

    Returns:
        The champion; a `RegistryError` says why there is none.
    """
    return looking.champion(opened(storage), name)


def champion_history(name: str, storage: Path | str = "runs") -> list[Change]:
    """Everything that became of the champions of a name, oldest first."""
    return looking.history(opened(storage), name)


def compare(name: str, challenger: str, storage: Path | str = "runs") -> Comparison:
    """An adapter, `SWEEP/TRIAL` or `SWEEP/TRIAL@TASK`, beside the champion on the same examples."""
    return comparison.compare(opened(storage), name, challenger)


def promote(
    reference: str,
    storage: Path | str = "runs",
    *,
    reason: str,
    to: str | None = None,
    force: bool = False,
) -> Change:
    """Make an adapter champion.

    Args:
        reference: `SWEEP/TRIAL` or `SWEEP/TRIAL@TASK`.
        storage: The folder that sweeps are kept in.
        reason: Why; the history keeps it.
        to: Whose champion; None: its own sweep's.
        force: Although something speaks against it, which the history keeps as well.

    Returns:
        The line of the history; a `RegistryError` says why it was refused.
    """
    return changing.promote(
        opened(storage), reference, reason=reason, name=to, force=force, note=_log.info
    )


def rollback(name: str, storage: Path | str = "runs", *, reason: str) -> Change:
    """Make the champion before this one champion again; see `promote`."""
    return changing.rollback(opened(storage), name, reason=reason, note=_log.info)
