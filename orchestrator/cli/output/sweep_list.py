"""A list of sweeps, for programs and for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orchestrator.cli.output.tables import add_cells, table
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.formatting import show, show_duration


def sweep_row(view: SweepState, folder: Path) -> dict[str, Any]:
    """One sweep of a list, for programs and for `render_sweeps`.

    Args:
        view: The sweep.
        folder: Its folder.

    Returns:
        A JSON-like document.
    """
    best = view.best
    return {
        "sweep": folder.name,
        "experiment": view.name,
        "kind": view.kind,
        "state": "ended" if view.ended else "unfinished",
        "opened": view.opened,
        "changed": view.changed,
        "trials_finished": len(view.finished),
        "trials_failed": sum(trial.state == "FAILED" for trial in view.trials),
        "trials_planned": view.total,
        "tasks": view.tasks,
        "best": best.name if best else None,
        "best_gain": best.measure("gain") if best else None,
        "champion": view.champion,
        "folder": str(folder),
    }


def render_sweeps(rows: Sequence[Mapping[str, Any]], *, now: float) -> RenderableType:
    """A list of sweeps for people.

    Args:
        rows: What `sweep_row` gives, oldest first.
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
