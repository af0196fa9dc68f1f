"""Sweeps over a tiny base: first in one process, then through Ray Tune, Ray Train and DeepSpeed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.base.loading import load_tokenizer
from orchestrator.cli import app, errors
from orchestrator.data.preparation import prepare
from orchestrator.executors.local import run_locally
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.loop.trial_state import TrialState, fresh_state
from orchestrator.records.events import read_events
from orchestrator.records.journal import Journal
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.sweep_runs import SweepRuns
from orchestrator.records.sweep_folder import SweepFolder, sweep_folder
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import load_experiment
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions
from orchestrator.system.seals import flaw
from tests.journals import say

pytestmark = pytest.mark.usefixtures("records")

ROOT = Path(__file__).parents[3]
LOCAL = {"executor": "local"}


def trials(lines):
    return {line["trial"]: line for line in lines if line["event"] == "trial_ended"}


def run(path, recorder, **options):
    outcome = run_sweep(load_experiment(path), SweepOptions(**options), recorder)
    assert outcome.complaint == "", "nothing is left on a cluster"
    return outcome


# --- in one process ------------------------------------------------------------------------------


def test_a_local_sweep_from_file_to_verdict(experiment_file, recorder, search):
    path = experiment_file(search=search, resources=LOCAL)
    outcome = run(path, recorder)
    assert outcome.lines == read_journal(outcome.folder)
    assert set(trials(outcome.lines)) == {"base", "t001", "t002", "t003"}
    assert {t["state"] for t in trials(outcome.lines).values()} == {"COMPLETE"}
    proposed = {e["trial"]: e for e in recorder.events("trial_proposed")}
    assert proposed["base"]["by"] == "control"
    assert proposed["t001"]["by"] == "tpe"
    reports = [e for e in recorder.events("stage_report") if e["trial"] == "t001"]
    assert [(r["report"]["task"], r["report"]["fraction"]) for r in reports] == [
        (task, fraction) for task in ("mood", "being") for fraction in (0.25, 0.5, 1.0)
    ]
    end = outcome.lines[-1]
    assert end["event"] in {"sweep_ended", "champion_registered"}
    for name in ("t001", "t002", "t003"):
        adapter = outcome.folder / "trials" / name / "adapter"
        assert {f.name for f in adapter.iterdir()} >= {
            "adapter_config.json", "adapter_model.safetensors",
        }  # fmt: skip
        measures = trials(outcome.lines)[name]["measures"]
        base = trials(outcome.lines)["base"]
        rows = [r["report"]["row"] for r in recorder.events("stage_report")
                if r["trial"] in {name, "base"} and r["report"]["row"]]  # fmt: skip
        assert measures["gain"] == pytest.approx(sum(rows[-1]) / 2 - sum(rows[0]) / 2)
        assert base["measures"]["probe_drift"] == pytest.approx(0.0)


def test_controls_run_as_trials_and_joint_learning_is_never_chosen(experiment_file, recorder):
    """Joint learning has no forgetting; it is a bound to look at, on no front and no champion."""
    space = {"method.preset": {"choice": ["joint", "early-stopped-lora"]}}
    path = experiment_file(
        search={"space": space, "searcher": "grid", "trials": 2}, resources=LOCAL
    )
    outcome = run(path, recorder)
    ended = trials(outcome.lines)
    assert [ended[name]["state"] for name in ("t001", "t002")] == ["COMPLETE", "COMPLETE"], ended
    joint = ended["t001"]["measures"]
    assert joint["forgetting"] is None
    assert joint["gain"] is not None
    assert ended["t001"]["intervals"]["zero_shot"] is not None
    rows = [e["report"]["row"] for e in recorder.events("stage_report")
            if e["trial"] == "t001" and e["report"]["row"]]  # fmt: skip
    assert len(rows) == 1
    [end] = [line for line in outcome.lines if line["event"] == "sweep_ended"]
    assert end["front"] == ["t002"]
    assert end["champion"] != "t001"


def test_the_whole_model_can_be_trained_recorded_and_used(experiment_file, recorder):
    from orchestrator.serving.find import model_folder
    from orchestrator.serving.predictor import Predictor

    path = experiment_file(method={"adapter": {"kind": "full"}}, resources=LOCAL)
    outcome = run(path, recorder, kind="run")
    assert trials(outcome.lines)["t001"]["state"] == "COMPLETE"
    with model_folder(f"{outcome.folder.name}/t001", outcome.folder.parent, None) as folder:
        trained, base = Predictor.from_folder(folder), Predictor.from_folder(folder, adapter=False)
        row = {"text": "good the film good"}
        answers = [p.predict("mood", [row])[0].probabilities for p in (trained, base)]
    assert answers[0] != answers[1]


def test_what_does_not_depend_on_the_method_is_computed_once(experiment_file, recorder, tmp_path):
    """Another sweep on the same base and data takes its tokens and row 0 from the first one's."""
    first = run(experiment_file("first", resources=LOCAL), recorder, kind="run")
    kept = {p.parent.name for p in (first.folder.parent / "cache").glob("*/*.json")}
    assert kept == {"task", "base"}
    begun = len(recorder.notes)
    other = {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]}}
    second = run(experiment_file("second", resources=LOCAL, method=other), recorder, kind="run")
    notes = recorder.notes[begun:]
    assert not [note for note in notes if note.startswith("tokenising")]
    assert "the untouched base was measured on this data before" in notes
    rows = [
        [line["report"] for line in outcome.lines
         if line["event"] == "stage_report" and line["trial"] == "base"]
        for outcome in (first, second)
    ]  # fmt: skip
    assert rows[0] == rows[1]
    ended = [trials(outcome.lines)["base"]["measures"] for outcome in (first, second)]
    assert ended[0] == ended[1]
    assert trials(second.lines)["t001"]["state"] == "COMPLETE"
    data = {"probe_tokens": 100, "probe_context": 32, "rung_examples": 8}
    third = run(experiment_file("third", resources=LOCAL, data=data), recorder, kind="run")
    [proposed] = [x for x in third.lines if x.get("trial") == "base" and "by" in x]
    assert proposed["by"] == "control"


def test_a_quantised_base_is_trained_on_and_loaded_again_quantised(
    experiment_file, recorder, tiny_base
):
    from orchestrator.base.number_formats import memory_footprint
    from orchestrator.serving.find import model_folder
    from orchestrator.serving.predictor import Predictor

    model = {"name": str(tiny_base), "quantization": "nf4"}
    path = experiment_file(model=model, resources=LOCAL)
    outcome = run(path, recorder, kind="run")
    assert trials(outcome.lines)["t001"]["state"] == "COMPLETE", trials(outcome.lines)["t001"]
    with model_folder(f"{outcome.folder.name}/t001", outcome.folder.parent, None) as folder:
        predictor = Predictor.from_folder(folder)
    assert "uint8" in " ".join(memory_footprint(predictor.model))


def test_the_report_is_attached_to_the_sweeps_run(experiment_file, recorder):
    from mlflow import MlflowClient

    from orchestrator.records.mlflow.address import tracking_uri

    path = experiment_file(resources=LOCAL)
    outcome = run(path, recorder, kind="run")
    page = outcome.folder / "report" / "index.html"
    assert "<html" in page.read_text(encoding="utf-8")
    uri = tracking_uri(load_experiment(path).experiment.tracking.uri, outcome.folder.parent)
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    attached = {item.path for item in client.list_artifacts(parent.info.run_id, "report")}
    assert "report/index.html" in attached


def test_the_same_command_again_runs_nothing_again(experiment_file, recorder, search):
    path = experiment_file(search=search, resources=LOCAL)
    first = run(path, recorder)
    again = run(path, recorder)
    assert again.lines == first.lines
    assert any("nothing is left to run" in note for note in recorder.notes)
    assert len([*first.folder.parent.glob("*/journal.jsonl")]) == 1
    new = run(path, recorder, new=True)
    assert new.folder == sweep_folder(first.folder.parent, "tiny", new=False) != first.folder
    assert trials(new.lines)["t001"]["measures"]["gain"] == pytest.approx(
        trials(first.lines)["t001"]["measures"]["gain"]
    )


class StopError(Exception):
    """The driver dies here."""


@pytest.mark.parametrize("after", [3, 6, 9, 13])
def test_a_driver_that_dies_anywhere_is_continued_to_the_same_result(
    experiment_file, recorder, search, after
):
    path = experiment_file(search=search, resources=LOCAL)
    whole = run(path, recorder)

    class Dying(type(recorder)):
        def line(self, line):
            super().line(line)
            if line["n"] == after:
                raise StopError

    with pytest.raises(StopError):
        run(path, Dying(), new=True)
    folder = sweep_folder(whole.folder.parent, "tiny", new=False)
    assert len(read_journal(folder)) == after + 1
    finished = set(trials(read_journal(folder)))
    resumed = run(path, recorder)
    assert resumed.folder == folder
    starts = [line["trial"] for line in resumed.lines if line["event"] == "trial_started"]
    assert all(starts.count(name) == 1 for name in finished)
    for name, end in trials(whole.lines).items():
        got = trials(resumed.lines)[name]["measures"]
        for measure, value in end["measures"].items():
            if measure != "cost_s" and value is not None:
                assert got[measure] == pytest.approx(value, abs=1e-6), (name, measure)
    reports = [
        (x["trial"], x["report"]["task_index"], x["report"]["fraction"])
        for x in resumed.lines
        if x["event"] == "stage_report"
    ]
    assert len(reports) == len(set(reports))


def test_a_trial_that_is_whole_before_row_0_ends_once(
    experiment_file, recorder, search, tmp_path, monkeypatch
):
    said = {}

    def heard(job, data, tell):
        said[job.trial] = []
        run_locally(job, data, lambda message: (said[job.trial].append(message), tell(message)))

    monkeypatch.setattr("orchestrator.sweep.locally.run_locally", heard)
    # The second driver takes the adapter from where the first one's trial has left it.
    monkeypatch.setattr(KeptWork, "remove_checkpoint", lambda kept, trial: None)
    path = experiment_file(search={**search, "trials": 1}, resources=LOCAL)
    whole = run(path, recorder)
    loaded = load_experiment(path)
    data = prepare(loaded, load_tokenizer(loaded.experiment.model))
    # Of the same identity, or what the first one's trials have left would be another sweep's.
    opening = {k: v for k, v in whole.lines[0].items() if k not in {"n", "time", "event"}}
    with Journal(tmp_path / "other") as journal:
        say(journal, "sweep_opened", **opening)
        driver = Driver(loaded, journal, recorder, data)
        assert {driver.next_job().trial for _ in range(2)} == {"base", "t001"}
        for name in ("t001", "base"):
            for message in said[name]:
                driver.hear(name, message)
        for name in ("base", "t001"):
            driver.ended(name, error=False)
        ends = [line for line in journal.lines if line["event"] == "trial_ended"]
    assert [(line["trial"], line["state"], line["reason"]) for line in ends] == [
        ("base", "COMPLETE", ""), ("t001", "COMPLETE", ""),
    ]  # fmt: skip
    assert ends[1]["measures"]["gain"] == trials(whole.lines)["t001"]["measures"]["gain"]


def mlflow_runs(storage: Path, name: str = "tiny"):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    return client.search_runs([experiment.experiment_id])


def test_mlflow_gets_one_run_a_trial_and_one_for_the_sweep(experiment_file, recorder, search):
    path = experiment_file(search=search, resources=LOCAL)

    class Dying(type(recorder)):
        def line(self, line):
            super().line(line)
            if line["event"] == "trial_ended" and line["trial"] == "t001":
                raise StopError

    with pytest.raises(StopError):
        run(path, Dying())
    outcome = run(path, recorder)
    run(path, recorder)
    runs = mlflow_runs(outcome.folder.parent)
    tags = [r.data.tags.get("orchestrator.trial") for r in runs]
    assert sorted(str(t) for t in tags) == ["None", "base", "t001", "t002", "t003"]
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_more_trials_extend_a_finished_sweep(experiment_file, recorder, search):
    path = experiment_file(search={**search, "trials": 2}, resources=LOCAL)
    first = run(path, recorder)
    document = yaml.safe_load(path.read_text())
    document["search"]["trials"] = 3
    path.write_text(yaml.safe_dump(document))
    more = run(path, recorder)
    assert more.folder == first.folder
    assert set(trials(more.lines)) == {"base", "t001", "t002", "t003"}
    assert sum(line["event"] == "trial_started" for line in more.lines) == 4


def test_a_sweep_that_an_older_version_let_begin_goes_on(
    experiment_file, recorder, monkeypatch, tmp_path
):
    """Its space is refused today, and its journal holds a trial that cannot be."""
    batch = "training.batch_size"
    fields = {
        "resources": LOCAL,
        "training": {"accumulation": 2, "max_length": 48, "precision": "fp32"},
        "data": {"train_examples": 8, "validation_examples": 4, "probe_tokens": 64,
                 "probe_context": 32},
    }  # fmt: skip

    def file(trials):
        search = {"space": {batch: {"int_uniform": [2, 9]}}, "trials": trials}
        return experiment_file(search=search, **fields)

    with monkeypatch.context() as older:
        older.setattr("orchestrator.spec.load.check_space", lambda experiment: None)
        folder = run(file(1), recorder).folder
    with Journal(folder) as journal:
        say(journal, "trial_proposed", trial="t002", overrides={batch: 7}, by="tpe")
    path = file(3)
    again = CliRunner().invoke(app, ["sweep", str(path), "--new"])
    assert again.exit_code == errors.MISTAKE
    assert "List the values that are possible as a `choice`" in again.stderr
    result = CliRunner().invoke(app, ["sweep", str(path)])
    assert result.exit_code == 0, result.output
    ends = trials(read_journal(folder))
    assert {name: end["state"] for name, end in ends.items()} == {
        "base": "COMPLETE", "t001": "COMPLETE", "t002": "FAILED", "t003": "COMPLETE",
    }  # fmt: skip
    assert "must be a multiple" in ends["t002"]["reason"]
    assert read_journal(folder)[-1]["event"] in {"sweep_ended", "champion_registered"}


def opened(storage, folder, name):
    with Journal(storage / folder) as journal:
        say(journal, "sweep_opened", sweep=folder, experiment={"name": name})


def test_a_name_is_that_of_the_opening_line_not_of_the_folder(tmp_path):
    def last(name, new=False):
        return sweep_folder(tmp_path, name, new=new).name

    assert last("demo") == last("demo", new=True) == "demo"
    opened(tmp_path, "demo", "demo")
    opened(tmp_path, "demo-2", "demo-2")  # an experiment of that name
    assert last("demo") == "demo"
    assert last("demo", new=True) == "demo-3"
    opened(tmp_path, "demo-3", "demo")
    assert last("demo") == "demo-3"
    assert last("demo", new=True) == "demo-4"
    assert last("demo-2") == "demo-2"
    assert last("demo-2", new=True) == "demo-2-2"
    opened(tmp_path, "other-2", "other")  # the first one was removed
    opened(tmp_path, "other-run", "other-run")
    assert last("other") == "other-2"
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.jsonl").write_text('{"n":0,"ev')
    assert last("torn") == "torn"


def test_a_changed_experiment_is_refused_naming_the_difference(experiment_file, recorder, search):
    path = experiment_file(search=search, resources=LOCAL)
    run(path, recorder)
    path.write_text(path.read_text().replace("batch_size: 8", "batch_size: 4"))
    with pytest.raises(SweepError, match=r"training\.batch_size: 8 -> 4") as caught:
        run(path, recorder)
    assert "--new" in str(caught.value)


def test_a_diverging_trial_is_failed_and_the_sweep_goes_on(experiment_file, recorder):
    search = {
        "space": {"method.adapter.alpha": {"choice": [2.0, 3.0e38]}},
        "searcher": "grid",
        "trials": 2,
    }
    path = experiment_file(search=search, resources=LOCAL)
    outcome = run(path, recorder)
    ends = trials(outcome.lines)
    assert ends["t001"]["state"] == "COMPLETE"
    assert ends["t002"]["state"] == "FAILED"
    assert "lower the learning rate" in ends["t002"]["reason"]
    assert outcome.lines[-1]["event"] in {"sweep_ended", "champion_registered"}


def test_first_trials_are_given_and_the_rest_is_searched(experiment_file, recorder, search):
    first = [{"method.adapter.kind": "lora", "training.accumulation": 2}]
    path = experiment_file(search={**search, "first": first, "trials": 2}, resources=LOCAL)
    run(path, recorder)
    proposed = {e["trial"]: e["overrides"] for e in recorder.events("trial_proposed")}
    assert proposed["t001"]["method.adapter.kind"] == "lora"
    assert proposed["t001"]["training.accumulation"] == 2
    assert "training.learning_rate" in proposed["t001"]
    assert "training.accumulation" not in proposed["t002"]


def test_the_state_of_a_trial_survives_json(experiment_file):
    loaded = load_experiment(experiment_file())
    data = prepare(loaded, load_tokenizer(loaded.experiment.model))
    sequence = task_sequence(loaded.experiment, data)
    assert [t.name for t in sequence.tasks] == ["mood", "being"]
    state = fresh_state(sequence)
    again = TrialState.from_document(json.loads(json.dumps(state.as_document())))
    assert str(again) == str(state)


# --- through Ray ---------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_through_ray_leaves_a_champion_record_and_a_clean_cluster(
    experiment_file, recorder, search, ray_cluster
):
    from orchestrator.executors.ray_leftovers import Leftovers, wait_until_clean

    search["first"] = [{"resources.workers": 2, "method.adapter.kind": "curlora"}]
    search["trials"] = 2
    path = experiment_file(
        search=search,
        resources={"members": 1},
        training={
            "learning_rate": 0.02, "batch_size": 8, "max_length": 48, "precision": "fp32",
            "deepspeed": {"zero_optimization": {"stage": 2}},
        },
    )  # fmt: skip
    outcome = run(path, recorder)
    assert wait_until_clean() == Leftovers()
    ends = trials(outcome.lines)
    assert {name: end["state"] for name, end in ends.items()} == {
        "base": "COMPLETE", "t001": "COMPLETE", "t002": "COMPLETE",
    }  # fmt: skip
    phases = {p["phase"] for trial, p in recorder.steps if trial == "t001"}
    assert phases >= {"starting", "ready"}
    assert phases & {"training", "evaluating"}
    assert {r.info.status for r in mlflow_runs(outcome.folder.parent)} == {"FINISHED"}

    # The same trial in one plain process gives the same measures: executors differ in speed only.
    overrides = next(
        e["overrides"] for e in recorder.events("trial_proposed") if e["trial"] == "t001"
    )
    overrides = {k: v for k, v in overrides.items() if not k.startswith("resources.")}
    plain = load_experiment(path).experiment.with_overrides(overrides)
    document = plain.model_dump(mode="json", exclude={"search"})
    document |= {"name": "plain", "resources": LOCAL}
    document["training"]["deepspeed"] = {}
    path.write_text(yaml.safe_dump(document))
    local = run(path, recorder, kind="run")
    # A run scores everything at once, a sweep what its front was not scored on before the verdict.
    later = [e for e in recorder.events("trial_measured") if e["trial"] == "t001"]
    assert later, "it is on the front"
    for measure, value in trials(local.lines)["t001"]["measures"].items():
        if measure != "cost_s" and value is not None:
            assert later[0]["measures"][measure] == pytest.approx(value, abs=2e-3), measure


@pytest.mark.ray
@pytest.mark.slow
def test_killed_workers_restart_from_the_checkpoint_to_the_same_losses(
    experiment_file, recorder, ray_cluster
):
    whole = run(experiment_file("whole", resources=LOCAL), recorder, kind="run")

    class Killer(type(recorder)):
        def __init__(self):
            super().__init__()
            self.pid = None
            self.ready = 0

        def progress(self, trial, progress):
            super().progress(trial, progress)
            if trial == "t001" and progress["phase"] == "ready":
                self.ready += 1
                self.pid = progress["pid"]

        def line(self, line):
            super().line(line)
            report = line.get("report", {})
            if line.get("trial") == "t001" and report.get("fraction") == 0.5 and self.ready == 1:
                os.kill(self.pid, signal.SIGKILL)

    killer = Killer()
    resources = {"workers": 2, "max_failures": 1}
    killed = run(experiment_file("killed", resources=resources), killer, kind="run")
    assert killer.ready == 2, "the workers were started a second time"
    expected, got = (
        [x["report"] for x in lines if x["event"] == "stage_report" and x["trial"] == "t001"]
        for lines in (whole.lines, killed.lines)
    )
    assert [(r["task"], r["fraction"]) for r in got] == [
        (r["task"], r["fraction"]) for r in expected
    ]
    for mine, other in zip(got, expected, strict=True):
        assert mine["losses"] == pytest.approx(other["losses"], abs=1e-4)
        assert mine["row"] == other["row"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_failing_trial_names_its_log_and_too_large_ones_their_arithmetic(
    experiment_file, recorder, ray_cluster
):
    deepspeed = {"optimizer": {"type": "NoSuchOptimizer"}}
    training = {"batch_size": 8, "max_length": 48, "deepspeed": deepspeed}
    path = experiment_file("wrong", training=training, resources={"max_failures": 0})
    with pytest.raises(SweepError, match="NoSuchOptimizer") as caught:
        run(path, recorder, kind="run")
    assert "log.txt" in str(caught.value)
    big = experiment_file("big", resources={"workers": 64},
                          training={"batch_size": 64, "max_length": 48})  # fmt: skip
    with pytest.raises(SweepError, match=r"64 worker\(s\) x 1 CPU = 64 CPUs"):
        run(big, recorder, kind="run")


@pytest.mark.ray
@pytest.mark.slow
def test_two_raylets_with_folders_of_their_own(experiment_file, tmp_path):
    """A running cluster joined with `--address`; a trial's two workers land on two nodes."""
    # Both sides of the connection must agree on authentication; the token is not under test.
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)  # of the Ray of these tests
    ray = Path(sys.executable).with_name("ray")
    port = 20000 + os.getpid() % 20000
    folders = [tmp_path / "head", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    started = []
    try:
        for folder, words in zip(
            folders,
            (
                ["--head", f"--port={port}", "--include-dashboard=true", "--dashboard-port=0",
                 "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1",
                 f"--temp-dir=/tmp/ray-test-{os.getpid()}"],
                [f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.1"],
            ),
            strict=True,
        ):  # fmt: skip
            with (folder / "log").open("w") as log:
                started.append(
                    subprocess.Popen(
                        [ray, "start", "--block", "--num-cpus=1", "--disable-usage-stats", *words],
                        cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
                    )
                )  # fmt: skip
            time.sleep(8)
        path = experiment_file("two", resources={"workers": 2})
        done = subprocess.run(
            [ray.with_name("orchestrate"), "run", str(path), "--address",
             f"127.0.0.1:{port}", "--json"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    finally:
        for process in started:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait(30)
    lines = read_journal(tmp_path / "runs" / "two-run")
    assert {t["state"] for t in trials(lines).values()} == {"COMPLETE"}


def test_what_came_before_a_sweep_is_paid_from_its_budget(experiment_file, recorder, search):
    path = experiment_file(search=search | {"trials": 1, "time_budget": "1h"}, resources=LOCAL)
    outcome = run(path, recorder, began=time.monotonic() - 1000.0)
    assert 1000.0 < SweepState.of(outcome.lines).spent.seconds < 3600.0


def test_no_settings_are_trained_twice_and_no_first_task_either(experiment_file, recorder, records):
    """Of equal trials one is trained, of others what differs; also where a sweep goes on."""
    search = {"space": {"method.retention.strength": {"choice": [1.0, 1000.0]}},
              "searcher": "random", "trials": 2}  # fmt: skip
    method = {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]},
              "retention": {"kind": "ewc", "max_examples": 8}}  # fmt: skip
    for trials_wanted in (2, 4):
        path = experiment_file(
            search=search | {"trials": trials_wanted}, method=method, resources=LOCAL
        )
        outcome = run(path, recorder)
    state = SweepState.of(outcome.lines)
    sources = {
        name: [r.taken_from for r in trial.reports if r.fraction == 1.0]
        for name, trial in state.everything.items()
    }
    strengths = [t.overrides["method.retention.strength"] for t in state.searched]
    assert strengths == [1000.0, 1000.0, 1000.0, 1.0]
    assert sources == {"base": [None], "t001": [None, None], "t002": ["t001"] * 2,
                       "t003": ["t001"] * 2, "t004": ["t001", None]}  # fmt: skip
    first, *twins, other = state.searched
    for twin in twins:
        assert twin.state == "COMPLETE"
        assert twin.searched_measures == first.searched_measures
        assert twin.losses == first.losses
        assert twin.adapter_sha256 == first.adapter_sha256
        assert flaw(SweepFolder(outcome.folder).adapter(twin.name)) is None
    assert other.measures["cost_tokens"] == first.measures["cost_tokens"]
    assert other.losses[: len(other.losses) // 2] == first.losses[: len(first.losses) // 2]
    assert "t003 has the settings of t001, and is not trained again" in recorder.notes
    [told] = [note for note in recorder.notes if "3 trials took over" in note]
    assert "30 of 48 training steps (62%)" in told
    assert state.trial("t004").taken_over == {"mood": "t001"}
    assert "mood by t001" in (outcome.folder / "report" / "index.html").read_text()
    opening, *events = read_events(outcome.lines)
    runs = SweepRuns(opening, outcome.folder)
    for event in (opening, *events):
        runs.add(event)
    tags = runs.pictures({"t004"})["t004"].tags
    assert json.loads(tags["orchestrator.taken_from"]) == {"mood": "t001"}
