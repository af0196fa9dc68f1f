"""A storage that becomes read-only in the middle, and comes back."""

import shutil

import pytest
from typer.testing import CliRunner

from benchmarks.failing_disk import FailingDisk, NoDiskError
from orchestrator.cli import app, errors
from orchestrator.executors.local import run_locally
from orchestrator.records.journal_lines import read_journal

GRID = {"space": {"method.adapter.alpha": {"choice": [1.0, 2.0, 4.0]}}, "searcher": "grid",
        "trials": 3}  # fmt: skip


@pytest.fixture
def disk(tmp_path, empty_database):
    """A disk under `tmp_path/runs`, with the database that a sweep there would have to make."""
    try:
        made = FailingDisk(tmp_path / "runs")
    except NoDiskError as error:
        pytest.skip(f"making a disk needs root and loop devices: {error}")
    shutil.copyfile(empty_database, tmp_path / "runs" / "mlflow.db")
    yield made
    made.remove()


@pytest.mark.parametrize("when", ["in the middle", "at its end"])
def test_a_storage_that_becomes_read_only_costs_nothing_that_was_finished(
    experiment_file, disk, tmp_path, monkeypatch, when
):
    path = experiment_file(
        tasks=["mood"], probes=[], objectives={"gain": "max"}, search=GRID,
        champion={"maximize": "gain", "subject_to": {}}, resources={"executor": "local"},
        data={"train_examples": 16, "validation_examples": 8, "rung_examples": 4},
    )  # fmt: skip

    def run(job, data, tell):
        def told(message):
            if when == "in the middle" and type(message).__name__ == "Reported":
                disk.fail()
            tell(message)

        mine = job.trial == "t002"
        run_locally(job, data, told if mine else tell)
        if mine and when == "at its end":
            disk.fail()

    monkeypatch.setattr("orchestrator.sweep.locally.run_locally", run)
    result = CliRunner().invoke(app, ["sweep", str(path)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == errors.MISTAKE
    assert result.stderr.count("orchestrate: ") == 1
    said = result.stderr[result.stderr.index("orchestrate: ") :]
    assert "Read-only file system" in said
    assert "Let it be writable again, then run the same command." in said

    monkeypatch.undo()
    disk.mend()
    lines = read_journal(tmp_path / "runs" / "tiny")
    assert [x["trial"] for x in lines if x["event"] == "trial_ended"] == ["base", "t001"]
    result = CliRunner().invoke(app, ["sweep", str(path)])
    assert result.exit_code == 0, result.output
    lines = read_journal(tmp_path / "runs" / "tiny")
    ends = [(x["trial"], x["state"]) for x in lines if x["event"] == "trial_ended"]
    assert ends == [(name, "COMPLETE") for name in ("base", "t001", "t002", "t003")]
    begun = [x["trial"] for x in lines if x["event"] == "trial_started"]
    assert (begun.count("base"), begun.count("t001")) == (1, 1)
