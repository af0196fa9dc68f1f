"""How soon the pages of `orchestrate ui` show something at 10,000 trials, in a real browser.

    python benchmarks/pages.py [--trials 10000]

writes benchmarks/pages.json. A first view is of a browser that has nothing cached: until the page
is painted (first contentful paint), and until the first chart is drawn. The index is filled
beforehand, as commands that look at the storage folder fill it; how long that takes is written,
too. Needs Playwright and /usr/bin/chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.synthetic_journals import write_sweep
from orchestrator.web.guard import Changes
from orchestrator.web.reading import Reading
from orchestrator.web.server import serving
from orchestrator.web.site import Site

REPEATS = 5
PAGES = {
    "home": "/",
    "sweep": "/sweeps/large",
    "sweep, filtered and sorted": "/sweeps/large?where=gain+%3E+0.1&sort=-gain",
    "trial": "/sweeps/large/trials/t5000",
    "lineage": "/sweeps/large/lineage",
    "trials of all sweeps": "/trials",
}
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def view(browser: Any, address: str, path: str) -> dict[str, float | None]:
    """Milliseconds from the request of a page by a fresh browser context."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    begun = time.perf_counter()
    page.goto(address + path, wait_until="commit")
    page.wait_for_load_state("domcontentloaded")
    charts = page.locator("[data-chart]").count()
    page.wait_for_function(f"({_PAINTED}) !== null")
    painted = page.evaluate(_PAINTED)
    drawn = None
    if charts:
        page.locator("[data-chart][data-drawn]").first.wait_for(timeout=60_000)
        drawn = (time.perf_counter() - begun) * 1000
    answered = page.evaluate("performance.getEntriesByType('navigation')[0].responseStart")
    context.close()
    return {"answered": answered, "painted": painted, "first chart drawn": drawn}


def medians(found: list[dict[str, float | None]]) -> dict[str, float]:
    """The median of each number, in whole milliseconds."""
    names = [name for name, value in found[0].items() if value is not None]
    return {name: round(statistics.median(one[name] or 0.0 for one in found)) for name in names}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        storage = Path(folder) / "runs"
        journal = write_sweep(storage, "large", asked.trials)
        reading = Reading(storage)
        begun = time.process_time()
        reading.sweeps()
        filled = time.process_time() - begun
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=sandbox)
        found: dict[str, dict[str, float]] = {}
        with serving(Site(reading, Changes(allowed=False)), 0) as address:
            for name, path in PAGES.items():
                found[name] = medians([view(browser, address, path) for _ in range(REPEATS)])
                print(name, found[name])
        browser.close()
        size = (journal / "journal.jsonl").stat().st_size
    document = {
        "trials": asked.trials,
        "journal_mib": round(size / 2**20, 1),
        "index_filled_cpu_s": round(filled, 1),
        "milliseconds": found,
    }
    place = Path(__file__).with_suffix(".json")
    place.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
