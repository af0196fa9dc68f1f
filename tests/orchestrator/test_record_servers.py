"""MLflow on PostgreSQL with its artifacts in a bucket: nothing is lost and nothing is there twice.

The servers are stopped in the middle, as machines are: the database at once, MLflow by SIGKILL.
"""

import threading
import time

import pytest

from benchmarks.synthetic_journals import write_sweep
from orchestrator.records.errors import TrackingError
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.projection import Projection
from orchestrator.system.stores.store import Store
from tests.record_servers import postgres_programs, record_servers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        postgres_programs() is None, reason="Debian's package `postgresql` is not installed"
    ),
]
TRIALS = 40


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with record_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


def shown(uri, name):
    """Everything that MLflow shows of a sweep, without what it has drawn by lot."""
    from mlflow import MlflowClient

    client, runs = MlflowClient(tracking_uri=uri), []
    experiment = client.get_experiment_by_name(name)
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], max_results=500, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    found = []
    for run in runs:
        history = {
            key: [
                (m.step, m.timestamp, m.value)
                for m in client.get_metric_history(run.info.run_id, key)
            ]
            for key in sorted(run.data.metrics)
        }
        tags = {
            key: value for key, value in run.data.tags.items()
            if key not in {"mlflow.parentRunId", "mlflow.user", "mlflow.source.name"}
            and not key.startswith("orchestrator.page")
        }  # fmt: skip
        found.append(
            (run.info.run_name, run.info.status, run.info.end_time, run.data.params, tags, history)
        )
    return sorted(found, key=lambda one: one[0])


def differences(there, undisturbed):
    """What differs between runs, in few words: pytest compares long ones for minutes."""
    parts = ("name", "status", "end", "parameters", "tags", "metrics")
    found = [
        f"{other[0]}, {part}: {_cut(one, two)}"
        for run, other in zip(there, undisturbed, strict=True)
        for part, one, two in zip(parts, run, other, strict=True)
        if one != two
    ]
    return found[:5]


def _cut(one, two):
    if isinstance(one, dict):
        keys = [key for key in sorted({*one, *two}) if one.get(key) != two.get(key)]
        return [(key, str(one.get(key))[:80], str(two.get(key))[:80]) for key in keys[:3]]
    return one, two


def project(projection, lines, step):
    """Project a growing journal, as a running sweep does; give how often MLflow was away."""
    away, count = 0, step
    while True:
        try:
            projection.catch_up(lines[:count], running=count < len(lines))
        except TrackingError:
            away += 1
            assert away < 60, "it never came back"
            time.sleep(0.5)
            continue
        if count == len(lines):
            return away
        count = min(len(lines), count + step)


def test_servers_that_fail_in_the_middle_lose_nothing_and_double_nothing(servers, tmp_path):
    folder = write_sweep(tmp_path, "fails", TRIALS, ended=False)
    lines = read_journal(folder)
    database = f"sqlite:///{tmp_path / 'undisturbed.db'}"
    Projection(database, folder).catch_up(lines, running=False)

    def disturb():
        time.sleep(1.0)
        servers.mlflow.kill()
        servers.mlflow.start()
        time.sleep(1.0)
        servers.database.stop("immediate")
        servers.database.start()

    trouble = threading.Thread(target=disturb)
    trouble.start()
    away = project(Projection(servers.mlflow.uri, folder), lines, step=3)
    trouble.join()
    # Whatever came while it was away is there after the next word.
    Projection(servers.mlflow.uri, folder).catch_up(lines, running=False)
    assert away > 0, "the servers were disturbed while nothing was written"
    there, undisturbed = shown(servers.mlflow.uri, "fails"), shown(database, "fails")
    assert len(there) == TRIALS + 2, "the sweep, the base, and each trial once"
    assert differences(there, undisturbed) == []


def test_artifacts_lie_in_the_bucket(servers, tmp_path, monkeypatch):
    for name, value in servers.s3.environment.items():
        monkeypatch.setenv(name, value)
    folder = write_sweep(tmp_path, "artifacts", 2, ended=False)
    projection = Projection(servers.mlflow.uri, folder)
    projection.catch_up(read_journal(folder), running=False)
    report = tmp_path / "report"
    report.mkdir()
    (report / "index.html").write_text("<p>page</p>")
    projection.attach(report)
    names = Store(f"s3://{servers.bucket}/mlflow").below("")
    assert any(name.endswith("report/index.html") for name in names)


def test_a_burst_of_trials_costs_two_cores_less_than_a_200th_of_a_minute_each(servers, tmp_path):
    """In CPU seconds, as other tests run beside it; `benchmarks/record_servers.py` times it."""
    folder = write_sweep(tmp_path, "burst", TRIALS, ended=False)
    lines, projection = read_journal(folder), Projection(servers.mlflow.uri, folder)
    projection.catch_up(lines[:1])  # what comes once for each sweep
    began = time.process_time() + servers.cpu_seconds()
    project(projection, lines, step=8)
    spent = time.process_time() + servers.cpu_seconds() - began
    assert spent / TRIALS <= 2 * 60 / 200
