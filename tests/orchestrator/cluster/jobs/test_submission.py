"""A sweep as a job of a cluster: submitted, looked at, stopped, continued and fetched."""

import json
import time

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.cluster.jobs import parcel
from orchestrator.cluster.jobs.client import Jobs
from orchestrator.cluster.jobs.errors import JobError
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState

LOCAL = {"executor": "local"}


def wait(jobs, name, wanted, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not wanted(jobs.last(name)):
        assert time.monotonic() < deadline, jobs.logs(jobs.last(name).submission)
        time.sleep(0.3)
    return jobs.last(name)


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_is_submitted_stopped_continued_and_fetched(
    ray_cluster, experiment_file, records, tmp_path, monkeypatch
):
    import ray

    address = f"http://{ray._private.worker.global_worker.node.webui_url}"
    # Another cluster's variables do not win over the address.
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    path = experiment_file(
        name="away", tasks=["mood"], probes=[], objectives={"gain": "max"}, resources=LOCAL,
        champion={"maximize": "gain", "subject_to": {}},
        data={"train_examples": 64, "validation_examples": 8, "rung_examples": 4},
        training={"learning_rate": 0.02, "batch_size": 8, "max_length": 48, "precision": "fp32",
                  "epochs": 40},
        search={"space": {"method.adapter.alpha": {"choice": [1.0, 2.0, 3.0]}}, "searcher": "grid",
                "trials": 3},
    )  # fmt: skip
    done = call("submit", path, "--address", address)
    assert done.exit_code == 0, done.output
    jobs = Jobs(address)
    running = jobs.last("away")
    twice = json.loads(call("submit", path, "--address", address, "--json").output)
    assert (twice["submission"], twice["new"]) == (running.submission, False)
    folder = records / "away"
    wait(jobs, "away", lambda job: job.over or reports(folder))
    assert call("stop", "away", "--address", address).exit_code == 0
    stopped = wait(jobs, "away", lambda job: job.over)
    assert stopped.status == "STOPPED", jobs.logs(stopped.submission)
    assert "those that were running will start again" in jobs.logs(stopped.submission)

    assert "goes on with" in call("submit", path, "--address", address).output
    ended = wait(jobs, "away", lambda job: job.over)
    assert ended.submission != stopped.submission
    assert ended.status == "SUCCEEDED", jobs.logs(ended.submission)
    assert "ended" in call("logs", "away", "--address", address, "--follow").output
    assert call("status", "away", "--address", address).output.count("away-") >= 2

    there = tmp_path / "here"
    fetched = call("results", "away", "--address", address, "--storage", there, "--json")
    assert fetched.exit_code == 0, fetched.output
    assert read_journal(there / "away") == read_journal(folder)
    state = SweepState.of(read_journal(there / "away"))
    assert [trial.state for trial in state.trials] == ["COMPLETE"] * 3
    # A copy is replaced by a later one; a sweep's own folder is left alone.
    parcel.refuse_own_sweep(there / "away")
    own = call("results", "away", "--address", address, "--storage", records)
    assert own.exit_code == 2
    assert "was not fetched from a cluster" in own.output
    unknown = call("logs", "astray", "--address", address)
    assert unknown.exit_code == 2
    assert "Submitted there: away" in unknown.output


def reports(folder):
    return folder.is_dir() and any(
        line["event"] == "stage_report" and line["trial"] != "base" for line in read_journal(folder)
    )


def test_nobody_there_is_one_message():
    with pytest.raises(JobError, match=r"No job server .* http://127\.0\.0\.1:1: "):
        Jobs("http://127.0.0.1:1")
    with pytest.raises(JobError) as refused:
        Jobs("http://me:secret@127.0.0.1:1")
    assert "secret" not in str(refused.value)
