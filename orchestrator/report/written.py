"""Writes a report: its page and its pictures, into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.records.event import Line
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.report.page import render_page
from orchestrator.report.png import draw_pictures
from orchestrator.report.report_state import report_state
from orchestrator.report.sweep_figures import make_figures
from orchestrator.system import durable
from orchestrator.system.stores.opening import share

PAGE = "index.html"


def write_report(lines: Sequence[Line], folder: Path, output: Path | None = None) -> Path:
    """Write a sweep's page and pictures, over those that are there.

    Args:
        lines: The journal.
        folder: The sweep's folder.
        output: Where to; by default `report` in the sweep's folder.

    Returns:
        The page.

    Raises:
        OSError: If the folder cannot be written.
    """
    target = output or SweepFolder(folder).report
    target.mkdir(parents=True, exist_ok=True)
    view = report_state(lines)
    figures = make_figures(view)
    draw_pictures(view, figures, target)
    page = target / PAGE
    # In one step, because a browser may be reading the old one.
    durable.write(page, render_page(view, figures, folder))
    durable.sync(target)
    share(target)
    return page
