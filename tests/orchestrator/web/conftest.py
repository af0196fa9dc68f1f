"""One server and one browser for all tests of the pages."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.web.guard import Changes
from orchestrator.web.reading import Reading
from orchestrator.web.server import serving
from orchestrator.web.site import Site
from tests.synthetic_sweeps import write_sweep

RECORDS = Path(__file__).parents[2] / "records" / "0.1.0" / "storage"


@pytest.fixture(scope="session")
def pages(tmp_path_factory, empty_database):
    """A server with changes allowed, over sweeps of every size; gives address, storage, changes."""
    storage = tmp_path_factory.mktemp("pages") / "runs"
    for name, trials in (("none", 0), ("six", 6), ("thousand", 1000)):
        write_sweep(storage, name, trials)
    write_sweep(storage, "other six", 6, seed=1)
    write_sweep(storage, "<b onclick=x>&'\"{{7*7}}", 6, hostile=True)
    write_sweep(storage, "open", 6, ended=False)
    shutil.copyfile(empty_database, storage / "mlflow.db")
    shutil.copytree(RECORDS / "example", storage / "example")
    changes = Changes(allowed=True)
    with serving(Site(Reading(storage), changes), 0) as address:
        yield SimpleNamespace(address=address, storage=storage, changes=changes)


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """A server over one sweep of ten thousand trials, whose index is filled; its address."""
    storage = tmp_path_factory.mktemp("full") / "runs"
    write_sweep(storage, "full", 10_000)
    reading = Reading(storage)
    reading.sweeps()
    with serving(Site(reading, Changes(allowed=False)), 0) as address:
        yield address


@pytest.fixture
def page(browser, pages):
    """A fresh page; at its end nothing was asked of another address, and nothing complained."""
    yield from watched(browser, pages.address)


@pytest.fixture
def full_page(browser, full):
    """The same of the server with ten thousand trials."""
    yield from watched(browser, full)


def watched(browser, address):
    """A page that must ask nobody else, and make no complaint."""
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 800})
    made = context.new_page()
    complaints, outside = [], []
    made.on("console", lambda m: complaints.append(m.text) if m.type in {"error", "warning"} else 0)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    made.on(
        "request",
        lambda asked: None if asked.url.startswith(address) else outside.append(asked.url),
    )
    yield made
    context.close()
    assert not outside
    assert not complaints
