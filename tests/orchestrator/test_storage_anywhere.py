"""Sweeps whose storage is an object store: killed, continued, read elsewhere, refused to two."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app, errors
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.seals import file_hashes
from orchestrator.system.stores.address import working_folder
from orchestrator.system.stores.store import Store
from tests.s3_server import s3_server

ROOT = Path(__file__).parents[2]
GRID = {
    "space": {
        "method.adapter.r": {"choice": [2, 4]},
        "training.learning_rate": {"choice": [0.01, 0.02]},
    },
    "searcher": "grid",
    "trials": 4,
}


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def address(server, monkeypatch, tmp_path):
    """An empty place in an S3 bucket, and where this "machine" works on it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ORCHESTRATOR_STORES", str(tmp_path / "machine"))
    return f"s3://{server.bucket()}/sweeps"


@pytest.fixture
def small(experiment_file):
    def write(storage, executor="local", **fields):
        return experiment_file(**{
            "search": GRID, "resources": {"executor": executor}, "storage": str(storage),
            "data": {"train_examples": 24, "validation_examples": 12, "rung_examples": 4},
            "probes": [], "objectives": {"gain": "max", "forgetting": "min"},
            "champion": {"maximize": "gain", "subject_to": {}}, **fields,
        })  # fmt: skip

    return write


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def command(*words, **options):
    """The same in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *map(str, words)], cwd=ROOT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def whole(*words, within=900):
    """A command that has ended well."""
    done = command(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = done.communicate(timeout=within)
    assert done.returncode == 0, err
    return out


def killed_after(path, place, reports):
    """Run a sweep, and kill its driver once it has so many reports."""
    process = command("sweep", path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 900
    while True:
        lines = read_journal(place) if (place / "journal.jsonl").is_file() else []
        if sum(line["event"] == "stage_report" for line in lines) >= reports:
            break
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def outcome(folder):
    """What trials have learnt and scored, and who won: what must not depend on anything else."""
    state = SweepState.of(read_journal(folder))
    return {
        "champion": state.champion,
        "trials": {
            trial.name: (
                trial.state,
                {name: value for name, value in trial.measures.items() if name != "cost_s"},
                [list(report.losses) for report in trial.by_stage.values()],
            )
            for trial in state.everything.values()
        },
    }  # fmt: skip


def another_machine(monkeypatch, tmp_path, name="another"):
    monkeypatch.setenv("ORCHESTRATOR_STORES", str(tmp_path / name))


@pytest.mark.slow
def test_a_sweep_in_a_bucket_is_killed_goes_on_elsewhere_and_ends_as_in_a_folder(
    small, address, tmp_path, monkeypatch
):
    whole("sweep", small(tmp_path / "runs"))
    undisturbed = tmp_path / "runs" / "tiny"
    path = small(address)
    killed_after(path, working_folder(address) / "tiny", reports=5)
    shutil.rmtree(tmp_path / "machine")  # this machine is gone, with its disk
    another_machine(monkeypatch, tmp_path)
    whole("sweep", path)
    folder = working_folder(address) / "tiny"
    assert outcome(folder) == outcome(undisturbed)
    lines = read_journal(folder)
    started = [line["trial"] for line in lines if line["event"] == "trial_started"]
    ended = [line["trial"] for line in lines if line["event"] == "trial_ended"]
    assert len(ended) == len(set(ended)) == 5, "the base and four trials, once each"
    assert len(started) - len(set(started)) <= 1, "only the one that ran was begun again"
    for trial in SweepState.of(lines).trials:
        kept = folder / "trials" / trial.name / "adapter"
        other = undisturbed / "trials" / trial.name / "adapter" / "adapter_model.safetensors"
        assert (kept / "adapter_model.safetensors").read_bytes() == other.read_bytes()
    words = ("champion", "promote", "tiny/t001", "--reason", "it will do", "--force")
    promoted = call(*words, "--storage", address)
    assert promoted.exit_code == 0, promoted.output
    check_a_machine_that_has_nothing(address, folder, tmp_path, monkeypatch)


def check_a_machine_that_has_nothing(address, folder, tmp_path, monkeypatch):
    """Let every command that reads a sweep find what it needs in the store alone."""
    another_machine(monkeypatch, tmp_path, "third")
    listed = call("runs", "list", "--storage", address, "--json")
    assert listed.exit_code == 0, listed.output
    shown = call("runs", "show", "tiny", "--storage", address)
    assert "Sweep tiny: 4 trials" in shown.stdout
    assert address in shown.stdout.replace("\n", ""), "the next command names it"
    assert "t001" in call("champion", "show", "tiny", "--storage", address).stdout
    assert call("report", "tiny", "--storage", address).exit_code == 0
    to = tmp_path / "out"
    exported = call("export", "tiny@champion", "--as", "lora", "--to", to, "--storage", address)
    assert exported.exit_code == 0, exported.output
    assert (to / "adapter_model.safetensors").is_file()
    kept = working_folder(address) / "tiny" / "trials" / "t001" / "adapter"
    assert file_hashes(kept) == file_hashes(folder / "trials" / "t001" / "adapter")
    words = ("predict", "tiny@champion", "--task", "mood", "the film was good")
    answered = call(*words, "--storage", address)
    assert answered.exit_code == 0, answered.output
    assert not (working_folder(address) / "tiny" / "trials" / "t002" / "adapter").exists()


@pytest.mark.slow
def test_a_second_driver_on_another_machine_is_refused_and_harms_nothing(
    small, address, tmp_path, monkeypatch
):
    path = small(address)
    first = command("sweep", path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 900
    while not (working_folder(address) / "tiny" / "journal.jsonl").is_file():
        assert time.monotonic() < until
        time.sleep(0.05)
    another_machine(monkeypatch, tmp_path)
    second = command("sweep", path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, said = second.communicate(timeout=900)
    assert second.returncode == errors.MISTAKE, said
    assert f"Another process (process {first.pid} on" in said
    assert f"is running the sweep in {address}/tiny" in said
    _, said = first.communicate(timeout=900)
    assert first.returncode == 0, said


@pytest.mark.slow
@pytest.mark.ray
def test_a_pool_in_a_bucket_is_killed_and_goes_on(small, address, tmp_path, monkeypatch):
    path = small(address, "pool")
    killed_after(path, working_folder(address) / "tiny", reports=4)
    # Members of the pool outlive their driver for a while, and may write until they are ended.
    another_machine(monkeypatch, tmp_path)
    whole("sweep", path)
    lines = read_journal(working_folder(address) / "tiny")
    ended = [line["trial"] for line in lines if line["event"] == "trial_ended"]
    assert sorted(ended) == ["base", "t001", "t002", "t003", "t004"]
    assert lines[-1]["event"] in {"sweep_ended", "champion_registered", "test_read"}
    names = Store(address).below("tiny")
    assert not [name for name in names if name.startswith("tiny/ray/t")], "nothing is left over"
    assert {f"tiny/trials/t00{n}/adapter.tar" for n in range(1, 5)} <= set(names)


def test_a_store_without_conditional_writes_is_refused_before_anything_is_done(
    small, address, monkeypatch
):
    import s3fs

    plain = s3fs.S3FileSystem._pipe_file

    async def careless(self, path, data, mode="overwrite", **options):
        return await plain(self, path, data, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", careless)
    result = call("sweep", small(address))
    assert result.exit_code == errors.MISTAKE
    assert "cannot hold a journal, of which there may be one writer" in result.stderr
    assert Store(address).below("") == {}


@pytest.mark.parametrize(("words", "said"), [
    (("repair", "tiny"), "journals in a store are not repaired"),
    (("prune", "--keep", "front"), "is not pruned by this command"),
])  # fmt: skip
def test_what_is_not_built_for_a_store_says_so(address, monkeypatch, words, said):
    Store(address).create("tiny/journal/000000/000", _opening())
    result = call(*words, "--storage", address)
    assert result.exit_code == errors.MISTAKE, result.output
    assert said in " ".join(result.stderr.split())


def _opening():
    from orchestrator.records.journal_lines import sealed

    line = {"n": 0, "time": 1.0, "event": "sweep_opened", "sweep": "tiny", "experiment": {}}
    return sealed(json.dumps(line).encode(), b"") + b"\n"


def test_a_bucket_that_is_not_there_is_one_message(small, address):
    path = small(address.replace("/sweeps", "-gone/sweeps"))
    result = call("sweep", path)
    assert result.exit_code == errors.MISTAKE
    assert "Make the bucket first" in result.stderr
    assert yaml.safe_load(path.read_text())["storage"] in result.stderr
