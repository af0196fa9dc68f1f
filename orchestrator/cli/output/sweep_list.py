"""A list of sweeps for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from orchestrator.cli.output.tables import add_cells, table
from orchestrator.system.formatting import show, show_duration


def render_sweeps(rows: Sequence[Mapping[str, Any]], *, now: float) -> RenderableType:
    """A list of sweeps for people.

    Args:
        rows: What the index gives, oldest first.
        now: Seconds since the epoch.

    Returns:
        The table.
    """
    made = table(
        "Sweeps", "sweep", "state", "opened", "changed", "trials", "failed", "gain", "champion",
        left={"sweep", "state", "opened", "champion"},
    )  # fmt: skip
    for row in rows:
        opened = row.get("opened")
        changed = row.get("changed")
        add_cells(
            made,
            [
                row["sweep"],
                row["state"],
                "-" if opened is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(opened)),
                "-" if changed is None else f"{show_duration(now - changed)} ago",
                f"{row['trials_finished']}/{row['trials_planned']}",
                str(row["trials_failed"]),
                show(row.get("best_gain"), signed=True),
                row.get("champion") or "-",
            ],
        )
    return made
