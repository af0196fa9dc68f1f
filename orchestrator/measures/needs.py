"""What has to be scored so that some measures can be computed."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.measures.matrix_cells import Cells, last_row
from orchestrator.measures.objectives import MEASURES


def needed_cells(names: Iterable[str], tasks: int, *, joint: bool = False) -> Cells:
    """The cells of the accuracy matrix that some measures are computed from.

    Args:
        names: The measures.
        tasks: How many tasks the sequence has.
        joint: Whether all tasks are learnt at once, so that the last row alone exists.

    Returns:
        The cells; row 0 is always measured and not among them.
    """
    cells: Cells = frozenset()
    for name in names:
        cells |= MEASURES[name].cells(tasks)
    return cells & last_row(tasks) if joint else cells


def need_probes(names: Iterable[str]) -> bool:
    """Whether one of some measures is computed from what probes read at the end."""
    return any(MEASURES[name].reads_probes for name in names)
