"""A journal that is damaged or gone: what is said, what is kept, and that the sweep goes on."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app, errors
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState

GRID = {
    "space": {"method.adapter.alpha": {"choice": [1.0, 2.0, 4.0]}},
    "searcher": "grid",
    "trials": 3,
}


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def refused(*words):
    result = call(*words)
    assert result.exit_code == errors.MISTAKE, result.output
    assert result.stderr.count("orchestrate: ") == 1
    return " ".join(result.stderr[result.stderr.index("orchestrate: ") :].split())


def matrices(folder):
    state = SweepState.of(read_journal(folder))
    return {trial.name: state.matrix(trial) for trial in state.trials}


@pytest.fixture(scope="module")
def ended(tiny_base, tiny_tasks, empty_database, tmp_path_factory):
    """A storage folder with a sweep that has ended, and its file."""
    import yaml

    root = tmp_path_factory.mktemp("ended")
    (root / "runs").mkdir()
    shutil.copyfile(empty_database, root / "runs" / "mlflow.db")
    document = {
        "name": "tiny", "model": {"name": str(tiny_base)}, "tasks": ["mood"],
        "method": {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]}},
        "training": {"learning_rate": 0.01, "batch_size": 8, "max_length": 48,
                     "precision": "fp32"},
        "data": {"train_examples": 16, "validation_examples": 8, "rung_examples": 4},
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
        "search": GRID, "resources": {"executor": "local"}, "storage": "runs",
    }  # fmt: skip
    path = tiny_tasks / "damaged.yaml"
    path.write_text(yaml.safe_dump({**document, "storage": str(root / "runs")}))
    assert call("sweep", path).exit_code == 0
    shutil.copytree(root / "runs" / "tiny", root / "kept")
    return root, path


@pytest.fixture
def folder(ended):
    """The sweep's folder, as it was when it had ended."""
    root, _ = ended
    place = root / "runs" / "tiny"
    shutil.rmtree(root / "runs", ignore_errors=True)
    (root / "runs").mkdir()
    shutil.copytree(root / "kept", place)
    return place


def damage(folder, event, trial=None, times=1):
    """Change a digit in a line; gives its number."""
    journal = folder / "journal.jsonl"
    raw = journal.read_bytes().splitlines(keepends=True)
    lines = [json.loads(line) for line in raw]
    found = [
        n for n, line in enumerate(lines) if (line["event"], line.get("trial")) == (event, trial)
    ]
    number = found[times - 1]
    raw[number] = raw[number].replace(b'"time":', b'"time":1', 1)
    journal.write_bytes(b"".join(raw))
    return number


@pytest.mark.usefixtures("folder")
def test_every_command_refuses_a_damaged_journal_and_the_list_leaves_it_out(ended, folder):
    root, path = ended
    storage = ("--storage", root / "runs")
    shutil.copytree(folder, root / "runs" / "other")
    number = damage(folder, "stage_report", "t002") + 1
    before = (folder / "journal.jsonl").read_bytes()
    for words in (
        ("sweep", path), ("runs", "show", "tiny", *storage), ("runs", "list", "tiny", *storage),
        ("report", "tiny", *storage),
    ):  # fmt: skip
        said = refused(*words)
        assert f"line {number} is not as it was written" in said
        assert f"{number - 1} lines before it can be read" in said
        assert "`orchestrate repair tiny" in said
    listed = call("runs", "list", *storage)
    assert listed.exit_code == 0
    assert "other" in listed.stdout
    assert "left out" in listed.stderr
    assert (folder / "journal.jsonl").read_bytes() == before


def test_a_repaired_sweep_runs_what_was_lost_and_ends_as_it_would_have(ended, folder):
    root, path = ended
    whole, lines = matrices(folder), read_journal(folder)
    damage(folder, "stage_report", "t002", times=2)
    damaged = (folder / "journal.jsonl").read_bytes()
    said = call("repair", "tiny", "--storage", root / "runs")
    assert said.exit_code == 0, said.output
    assert "t002 runs again" in said.output
    assert (folder / "journal.jsonl.set-aside-1").read_bytes() == damaged
    kept = read_journal(folder)
    assert kept[-1]["event"] == "journal_repaired"
    assert set(kept[-1]["cut"]) == {"t002"}
    assert "whole" in call("repair", "tiny", "--storage", root / "runs").output

    assert call("sweep", path).exit_code == 0
    after = read_journal(folder)
    assert matrices(folder) == whole
    started = [line["trial"] for line in after if line["event"] == "trial_started"]
    assert started.count("t002") == 2
    assert started.count("t001") == started.count("t003") == 1
    ends = [[x["champion"] for x in read if x["event"] == "sweep_ended"] for read in (lines, after)]
    assert ends[0] == ends[1][-1:]

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{root}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = client.search_runs([experiment])
    assert sorted(run.data.tags.get("orchestrator.trial", "") for run in runs) == [
        "", "base", "t001", "t002", "t003",
    ]  # fmt: skip
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_trials_without_a_journal_are_refused_with_the_choices(ended, folder, how):
    root, path = ended
    (folder / "journal.jsonl").unlink()
    if how == "empty":
        (folder / "journal.jsonl").touch()
    trials = sorted((folder / "trials").rglob("*"))
    for words in (("sweep", path), ("repair", "tiny", "--storage", root / "runs")):
        said = refused(*words)
        assert "Restore journal.jsonl from a copy" in said
        assert "with `--new`" in said
    assert sorted((folder / "trials").rglob("*")) == trials
    assert call("sweep", path, "--new").exit_code == 0
    assert len(matrices(root / "runs" / "tiny-2")) == 3


def test_without_its_first_line_nothing_is_built_on_a_journal(ended, folder):
    root, _ = ended
    damage(folder, "sweep_opened")
    before = (folder / "journal.jsonl").read_bytes()
    assert "its first line is damaged" in refused("repair", "tiny", "--storage", root / "runs")
    assert (folder / "journal.jsonl").read_bytes() == before
