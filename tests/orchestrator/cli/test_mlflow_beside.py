"""MLflow's own pages beside ours, of a storage folder that has moved since it was recorded."""

import shutil
import time
from pathlib import Path

import pytest

from orchestrator.cli.mlflow_beside import MlflowBeside
from orchestrator.cli.mlflow_server import START_SECONDS
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.mlflow.client import connect
from orchestrator.records.mlflow.projection import Projection

RECORDS = Path(__file__).parents[2] / "records" / "0.1.0" / "storage"

pytestmark = pytest.mark.slow


@pytest.fixture
def moved(tmp_path, empty_database):
    """A storage folder whose sweep was recorded while it lay elsewhere, which is gone."""
    storage = tmp_path / "before"
    storage.mkdir()
    shutil.copytree(RECORDS / "example", storage / "example")
    shutil.copyfile(empty_database, storage / "mlflow.db")
    Projection(tracking_uri(None, storage), storage / "example").catch_up(
        read_journal(storage / "example"), running=False
    )
    return storage.rename(tmp_path / "moved, #2 100%")


def shown(beside, sweep):
    """The address of MLflow's pages once its server answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        address = beside.address(sweep)
        if address is not None:
            return address
        time.sleep(0.5)
    pytest.fail("MLflow's server did not answer")


def test_runs_and_artifacts_of_a_moved_storage_folder_open_in_a_browser(moved, browser):
    with MlflowBeside(moved, None) as beside:
        address = shown(beside, "example")
        root = address.partition("/#")[0]
        client = connect(tracking_uri(None, moved))
        experiment = client.get_experiment_by_name("example")
        assert experiment.artifact_location.startswith(moved.resolve().as_uri())
        runs = client.search_runs([experiment.experiment_id])
        trial = next(r for r in runs if r.data.tags.get("orchestrator.trial") == "t001")
        context = browser.new_context(viewport={"width": 1500, "height": 1000})
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.get_by_text("t001", exact=True).first.wait_for()
        at = f"{root}/#/experiments/{experiment.experiment_id}/runs/{trial.info.run_id}/artifacts"
        page.goto(f"{at}/experiment.json")
        page.get_by_text("experiment.json").first.wait_for()
        task = read_journal(moved / "example")[0]["experiment"]["tasks"][0]
        page.get_by_text(f'"{task}"').first.wait_for()
        assert page.get_by_text("Loading artifact failed").count() == 0
        context.close()
