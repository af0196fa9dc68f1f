"""Pictures of the pages for the README, of the sweeps of a storage folder.

    python benchmarks/screenshots.py STORAGE SWEEP [TRIAL] [--to docs/figures]

Needs Playwright and /usr/bin/chromium.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from orchestrator.web import addresses
from orchestrator.web.guard import Changes
from orchestrator.web.reading import Reading
from orchestrator.web.server import serving
from orchestrator.web.site import Site


def shoot(page: Any, path: str, file: Path, *, height: int) -> None:
    """Take a picture of the top of a page, its charts drawn."""
    page.goto(path)
    page.set_viewport_size({"width": 1360, "height": height})
    charts = page.locator("[data-chart]")
    for i in range(charts.count()):
        charts.nth(i).scroll_into_view_if_needed()
        page.wait_for_function(
            "i => document.querySelectorAll('[data-chart]')[i].dataset.drawn", arg=i
        )
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)
    page.screenshot(path=str(file))


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("storage", type=Path)
    parser.add_argument("sweep")
    parser.add_argument("trial", nargs="?")
    parser.add_argument("--to", type=Path, default=Path("docs/figures"))
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    reading = Reading(asked.storage)
    row = reading.sweep_row(asked.sweep)
    trial = asked.trial or row["champion"]
    trial = trial or reading.search(sweep=asked.sweep, limit=1).rows[0]["trial"]
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    asked.to.mkdir(parents=True, exist_ok=True)
    with serving(Site(reading, Changes(allowed=False)), 0) as address, sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=sandbox)
        for scheme in ("light", "dark"):
            context = browser.new_context(base_url=address, color_scheme=scheme)
            page = context.new_page()
            shots = {
                "sweep": (addresses.sweep_page(asked.sweep), 1220),
                "trial": (addresses.trial_page(asked.sweep, trial), 1250),
            }
            for name, (path, height) in shots.items():
                shoot(page, path, asked.to / f"page-{name}-{scheme}.png", height=height)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
