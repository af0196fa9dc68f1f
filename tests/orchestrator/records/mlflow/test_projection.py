"""The projection of a journal onto MLflow, against real MLflow on SQLite."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.records.errors import TrackingError
from orchestrator.records.event import Line
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.mlflow.client import connect
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.mlflow.registry import champion_record, resolve
from orchestrator.spec.experiment import Experiment
from tests.orchestrator.conftest import made_up_reading

START = 1_700_000_000.0
TASKS = ["movies", "topics"]


def experiment_document(**changes: Any) -> dict[str, Any]:
    document = {
        "name": "demo",
        "model": {"name": "base-model"},
        "tasks": TASKS,
        "probes": ["docs"],
        "method": {"adapter": {"kind": "lora", "r": 4}},
        **changes,
    }
    return Experiment.model_validate(document).model_dump(mode="json")


def task_document(name: str) -> dict[str, Any]:
    return {
        "kind": "classification",
        "name": name,
        "data": {"files": "/data"},
        "prompt": "{text}\nAnswer:",
        "labels": {"0": " bad", "1": " good"},
    }


class Story:
    """A journal's lines, one second apart, without the file."""

    def __init__(self, **experiment: Any) -> None:
        self.lines: list[Line] = []
        self.say(
            "sweep_opened", sweep="demo", kind="sweep",
            experiment=experiment_document(**experiment),
            tasks={name: task_document(name) for name in [*TASKS, "docs"]}, yaml="name: demo\n",
            origin="demo.yaml", controls={},
            provenance={
                "base": {"name": "base-model", "sha256": "b" * 64},
                "data": {name: name * 8 for name in TASKS},
                "code": {"version": "0.1.0", "commit": "abc"},
                "packages": {"torch": "2.13.0"},
            },
        )  # fmt: skip

    def say(self, event: str, **fields: Any) -> None:
        n = len(self.lines)
        self.lines.append({"n": n, "time": START + n, "event": event, **fields})

    def begin(self, trial: str, attempt: int = 1, **overrides: Any) -> None:
        if attempt == 1:
            self.say("trial_proposed", trial=trial, overrides=overrides, by="tpe")
        self.say("trial_started", trial=trial, attempt=attempt)

    def report(self, trial: str, index: int, fraction: float, row: list[float] | None) -> None:
        report = {
            "task": TASKS[max(index, 0)], "task_index": index, "step": int(8 * fraction),
            "steps": 8, "fraction": fraction, "score": 0.5 + fraction / 4,
            "loss": 1.0 - fraction / 2, "learning_rate": 0.001, "losses": [1.5, 1.0 - fraction / 2],
            "learning_rates": [0.002, 0.001], "tokens": 100 * (index + 1),
            "seconds": 1.5, "row": row, "metrics": {}, "per_example": None,
            "probes": {"docs": {"cross_entropy": 3.25}} if row else None,
        }  # fmt: skip
        self.say("stage_report", trial=trial, report=report)

    def base(self) -> None:
        self.begin("base")
        self.report("base", -1, 1.0, [0.5, 0.25])
        self.end("base", adapter=None)

    def learn(self, trial: str) -> None:
        for index, row in enumerate(([0.75, 0.25], [0.625, 0.875])):
            self.report(trial, index, 0.5, None)
            self.report(trial, index, 1.0, row)

    def end(self, trial: str, state: str = "COMPLETE", **fields: Any) -> None:
        complete = state == "COMPLETE"
        measures = {"gain": 0.375, "forgetting": 0.125, "probe_accuracy_kept": None}
        self.say("trial_ended", **{
            "trial": trial, "state": state, "reason": "", "log": f"trials/{trial}/log.txt",
            "measures": measures if complete else {},
            "gain_interval": [0.25, 0.5] if complete else None,
            "adapter": f"trials/{trial}/adapter" if complete else None, **fields,
        })  # fmt: skip


def whole_story() -> list[Line]:
    story = Story()
    story.base()
    story.begin("t001", **{"method.adapter.r": 8})
    story.report("t001", 0, 0.5, None)
    story.begin("t001", attempt=2)
    story.report("t001", 0, 1.0, [0.75, 0.25])
    story.begin("t002", **{"method.adapter.kind": "curlora"})
    story.end("t002", "FAILED", reason="the loss became NaN")
    story.begin("t003")
    story.report("t003", 0, 0.5, None)
    story.end("t003", "STOPPED", reason="dominated")
    story.report("t001", 1, 1.0, [0.625, 0.875])
    story.end("t001")
    story.say("sweep_ended", front=["t001"], champion="t001", reason="largest gain")
    story.say("champion_registered", trial="t001", model="demo", version="1")
    return story.lines


def write_adapter(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    save_file({"w": torch.zeros(1)}, folder / "adapter_model.safetensors")


@pytest.fixture
def sweep_folder(tmp_path: Path, empty_database: Path) -> Path:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    write_adapter(tmp_path / "demo" / "trials" / "t001" / "adapter")
    return tmp_path / "demo"


def uri_of(sweep_folder: Path) -> str:
    return f"sqlite:///{sweep_folder.parent / 'mlflow.db'}"


def project(sweep_folder: Path, lines: list[Line]) -> None:
    Projection(uri_of(sweep_folder), sweep_folder).catch_up(lines)


def client_of(sweep_folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri_of(sweep_folder), registry_uri=uri_of(sweep_folder))


def runs_of(sweep_folder: Path) -> dict[str, Any]:
    client = client_of(sweep_folder)
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id])
    by_name = {run.data.tags.get("orchestrator.trial", "sweep"): run for run in runs}
    assert len(by_name) == len(runs)
    return by_name


def shown(sweep_folder: Path) -> dict[str, Any]:
    """Everything that MLflow shows, without its random identities."""
    client, picture = client_of(sweep_folder), {}
    for name, run in runs_of(sweep_folder).items():
        tags = {
            key: value
            for key, value in run.data.tags.items()
            if key not in {"orchestrator.model", "mlflow.parentRunId"}
        }
        history = {
            key: [
                (metric.value, metric.timestamp, metric.step)
                for metric in client.get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        files = {
            file.path: Path(client.download_artifacts(run.info.run_id, file.path)).read_text()
            for file in client.list_artifacts(run.info.run_id)
        }
        picture[name] = (tags, run.data.params, history, files, run.info.status,
                         run.info.start_time, run.info.end_time, run.info.run_name)  # fmt: skip
    return picture


def models_of(sweep_folder: Path) -> list[Any]:
    client = client_of(sweep_folder)
    experiment = client.get_experiment_by_name("demo")
    return client.search_logged_models([experiment.experiment_id]).to_list()


def test_journal_becomes_one_run_with_a_nested_run_per_trial(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story())
    runs = runs_of(sweep_folder)
    assert set(runs) == {"sweep", "base", "t001", "t002", "t003"}
    parent, trial = runs["sweep"], runs["t001"]
    assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert [runs[name].info.status for name in ("sweep", "base", "t001", "t002", "t003")] == [
        "FINISHED", "FINISHED", "FINISHED", "FAILED", "KILLED"]  # fmt: skip
    assert trial.data.params["method.adapter.r"] == "8"
    assert runs["t002"].data.params["method.adapter.kind"] == "curlora"
    assert "method.adapter.dropout" not in runs["t002"].data.params
    assert runs["t002"].data.tags["orchestrator.reason"] == "the loss became NaN"
    assert trial.data.tags["orchestrator.on_front"] == "true"
    assert trial.data.tags["orchestrator.champion"] == "true"
    assert runs["base"].data.tags["orchestrator.champion"] == "false"
    assert trial.data.tags["orchestrator.model_version"] == "demo/1"
    assert parent.data.tags["orchestrator.champion"] == "t001"
    assert parent.data.metrics == {
        "champion/gain": 0.375, "champion/forgetting": 0.125, "champion/gain_low": 0.25,
        "champion/gain_high": 0.5,
    }  # fmt: skip
    assert not [p for p in parent.data.params if p.startswith(("method.", "training."))]
    assert "probe_accuracy_kept" not in trial.data.metrics


def test_test_scores_stand_beside_the_trials_that_were_scored(sweep_folder: Path) -> None:
    lines = whole_story()[:-1]
    reading = {"n": len(lines), "time": START + len(lines), "event": "test_read"}
    lines.append(reading | made_up_reading("t001", TASKS, "t002"))
    for _ in range(2):
        project(sweep_folder, lines)
    runs = runs_of(sweep_folder)
    champion, parent = runs["t001"].data.metrics, runs["sweep"].data.metrics
    assert (champion["test_gain"], champion["test_gain_low"]) == (0.35, 0.2)
    assert champion["gain"] == 0.375, "that of the validation examples stays what it was"
    assert champion[f"test/{TASKS[0]}"] == 0.6
    assert parent["champion/test_accuracy"] == 0.6
    assert runs["base"].data.metrics[f"test/{TASKS[1]}"] == 0.25
    assert runs["t001"].data.tags["orchestrator.test_reading"] == "1"
    assert "test_gain" not in runs["t003"].data.metrics


def test_steps_count_on_over_the_tasks(sweep_folder: Path) -> None:
    story = Story()
    story.base()
    story.begin("t001")
    story.learn("t001")
    project(sweep_folder, story.lines)
    client, runs = client_of(sweep_folder), runs_of(sweep_folder)

    def points(trial: str, key: str) -> list[tuple[int, float]]:
        history = client.get_metric_history(runs[trial].info.run_id, key)
        return [(metric.step, metric.value) for metric in history]

    assert points("t001", "step_loss")[:4] == [(3, 1.5), (4, 0.75), (7, 1.5), (8, 0.5)]
    assert points("t001", "learning_rate")[:2] == [(3, 0.002), (4, 0.001)]
    assert points("t001", "loss") == [(4, 0.75), (8, 0.5), (12, 0.75), (16, 0.5)]
    assert points("t001", "score/movies") == [(4, 0.625), (8, 0.75), (16, 0.625)]
    assert points("t001", "score/topics") == [(8, 0.25), (12, 0.625), (16, 0.875)]
    assert points("t001", "cross_entropy/docs") == [(8, 3.25), (16, 3.25)]
    assert points("t001", "R/2/movies") == [(2, 0.625)]
    assert points("base", "R/0/topics") == [(0, 0.25)]
    assert runs["t001"].info.status == runs["sweep"].info.status == "RUNNING"


def test_artifacts_hold_the_matrix_and_what_made_it(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story())
    picture = shown(sweep_folder)
    files = picture["t001"][3]
    assert json.loads(files["accuracy_matrix.json"]) == {
        "tasks": TASKS, "rows": [[0.5, 0.25], [0.75, 0.25], [0.625, 0.875]]}  # fmt: skip
    assert json.loads(files["experiment.json"])["method"]["adapter"]["r"] == 8
    parent_files = picture["sweep"][3]
    assert parent_files["experiment.yaml"] == "name: demo\n"
    assert json.loads(parent_files["provenance.json"])["code"]["commit"] == "abc"
    assert (sweep_folder.parent / "mlartifacts" / "demo").is_dir()


def test_what_another_tool_has_set_leads_no_run_and_no_model_elsewhere(
    sweep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_REGISTRY_URI": "http://127.0.0.1:1",
        "MLFLOW_EXPERIMENT_ID": "77", "MLFLOW_EXPERIMENT_NAME": "theirs", "MLFLOW_RUN_ID": "f" * 32,
        "MLFLOW_ACTIVE_MODEL_ID": "m-123",
        "MLFLOW_WORKSPACE": "team",
    }  # fmt: skip
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    project(sweep_folder, whole_story())
    assert {name: os.environ[name] for name in theirs} == theirs, "theirs again, when we are done"
    for name in theirs:
        monkeypatch.delenv(name)
    assert set(runs_of(sweep_folder)) == {"sweep", "base", "t001", "t002", "t003"}
    assert [str(model.status) for model in models_of(sweep_folder)] == ["READY"]


def test_replaying_the_whole_journal_changes_nothing(sweep_folder: Path) -> None:
    lines = whole_story()
    project(sweep_folder, lines)
    before = shown(sweep_folder)
    project(sweep_folder, lines)
    client = client_of(sweep_folder)
    client.delete_tag(runs_of(sweep_folder)["sweep"].info.run_id, "orchestrator.journal_n")
    project(sweep_folder, lines)
    assert shown(sweep_folder) == before
    assert len(models_of(sweep_folder)) == 1


def test_a_stop_after_any_line_loses_and_doubles_nothing(
    sweep_folder: Path, tmp_path: Path, empty_database: Path
) -> None:
    lines = whole_story()
    for count in range(1, len(lines) + 1):
        project(sweep_folder, lines[:count])
    once = tmp_path / "once" / "demo"
    shutil.copytree(sweep_folder, once)
    shutil.copyfile(empty_database, tmp_path / "once" / "mlflow.db")
    project(once, lines)
    expected = shown(once)
    expected["sweep"][0]["orchestrator.folder"] = str(sweep_folder)
    assert shown(sweep_folder) == expected
    assert len(models_of(sweep_folder)) == 1


class _KilledError(BaseException):
    """Stands for SIGKILL: nothing between the call and the test handles it."""


def test_a_kill_between_any_two_requests_loses_and_doubles_nothing(
    sweep_folder: Path, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    story = Story()
    story.begin("t001")
    story.learn("t001")
    story.end("t001")
    story.say("sweep_ended", front=["t001"], champion="t001", reason="largest gain")
    calls: dict[str, Any] = {"left": 0, "last": ""}

    def dying_after(real: Any) -> Any:
        def request(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            calls["left"] -= 1
            if calls["left"] == 0:
                held = {k: len(v) for k, v in kwargs.items() if isinstance(v, list | dict)}
                calls["last"] = f"{real.__name__} {args[1]} {held}"
                raise _KilledError
            return result

        return request

    for name in ("create_experiment", "create_run", "log_batch", "log_text", "create_logged_model",
                 "log_model_artifacts", "log_outputs", "finalize_logged_model",
                 "set_terminated"):  # fmt: skip
        monkeypatch.setattr(MlflowClient, name, dying_after(getattr(MlflowClient, name)))
    died_after: list[str] = []
    # Each life of the driver does one request that is new: what it repeats does not count.
    allowed = 1
    for _ in range(100):
        calls["left"] = allowed
        try:
            project(sweep_folder, story.lines)
            break
        except _KilledError:
            allowed = allowed + 1 if calls["last"] in died_after else 1
            died_after.append(calls["last"])
    names = {text.split()[0] for text in died_after}
    assert {"create_run", "log_batch", "create_logged_model", "log_model_artifacts", "log_outputs",
            "finalize_logged_model"} <= names  # fmt: skip
    once = tmp_path / "once" / "demo"
    shutil.copytree(sweep_folder, once)
    shutil.copyfile(empty_database, tmp_path / "once" / "mlflow.db")
    calls["left"] = 0
    project(once, story.lines)
    expected = shown(once)
    expected["sweep"][0]["orchestrator.folder"] = str(sweep_folder)
    assert shown(sweep_folder) == expected
    assert len(models_of(sweep_folder)) == 1


def test_one_projection_follows_a_growing_journal(sweep_folder: Path) -> None:
    lines = whole_story()
    projection = Projection(uri_of(sweep_folder), sweep_folder)
    for count in range(len(lines) + 1):
        projection.catch_up(lines[:count])
    before = shown(sweep_folder)
    project(sweep_folder, lines)
    assert shown(sweep_folder) == before
    assert before["t001"][0]["orchestrator.attempt"] == "2"


def test_continued_sweep_opens_its_run_again(sweep_folder: Path) -> None:
    story = Story()
    story.base()
    story.say("sweep_ended", front=[], champion=None, reason="no trial finished")
    project(sweep_folder, story.lines)
    first = runs_of(sweep_folder)["sweep"]
    assert first.data.tags["orchestrator.champion"] == "none"
    story.begin("t001")
    project(sweep_folder, story.lines)
    again = runs_of(sweep_folder)["sweep"]
    assert (again.info.run_id, again.info.status) == (first.info.run_id, "RUNNING")
    story.learn("t001")
    story.end("t001")
    story.say("sweep_ended", front=["t001"], champion="t001", reason="largest gain")
    project(sweep_folder, story.lines)
    last = runs_of(sweep_folder)["sweep"]
    assert (last.info.run_id, last.info.status) == (first.info.run_id, "FINISHED")
    assert last.info.end_time == round((START + len(story.lines) - 1) * 1000)
    assert last.data.tags["orchestrator.champion"] == "t001"


def report_folder(sweep_folder: Path, text: str = "<p>fine</p>") -> Path:
    folder = sweep_folder / "report"
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(text)
    (folder / "front.png").write_bytes(b"png")
    return folder


def test_report_is_attached_once_and_again_when_it_changes(
    sweep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    uploads, upload = [], MlflowClient.log_artifacts
    monkeypatch.setattr(
        MlflowClient, "log_artifacts", lambda *a, **k: (uploads.append(a), upload(*a, **k))
    )
    lines = whole_story()
    for text in ("<p>one</p>", "<p>one</p>", "<p>two</p>"):
        projection = Projection(uri_of(sweep_folder), sweep_folder)
        projection.catch_up(lines)
        page = projection.attach(report_folder(sweep_folder, text))
    run, client = runs_of(sweep_folder)["sweep"], client_of(sweep_folder)
    assert page.endswith(f"/runs/{run.info.run_id}/artifacts/report/index.html")
    assert page in run.data.tags["mlflow.note.content"]
    files = [file.path for file in client.list_artifacts(run.info.run_id, "report")]
    assert files == ["report/front.png", "report/index.html"]
    stored = Path(client.download_artifacts(run.info.run_id, "report/index.html"))
    assert stored.read_text() == "<p>two</p>"
    assert len(uploads) == 2


def test_a_description_that_somebody_wrote_stays(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story())
    run = runs_of(sweep_folder)["sweep"].info.run_id
    client_of(sweep_folder).set_tag(run, "mlflow.note.content", "ours")
    projection = Projection(uri_of(sweep_folder), sweep_folder)
    projection.catch_up(whole_story())
    projection.attach(report_folder(sweep_folder))
    assert runs_of(sweep_folder)["sweep"].data.tags["mlflow.note.content"] == "ours"


def test_nothing_is_attached_before_there_is_a_run(sweep_folder: Path) -> None:
    with pytest.raises(TrackingError, match="no run to add to"):
        Projection(uri_of(sweep_folder), sweep_folder).attach(report_folder(sweep_folder))


def test_view_of_the_runs_names_its_columns(sweep_folder: Path) -> None:
    projection = Projection(uri_of(sweep_folder), sweep_folder)
    projection.catch_up(whole_story())
    place = projection.share_view(whole_story(), ["metrics.gain", "params.method.adapter.kind"])
    experiment = client_of(sweep_folder).get_experiment_by_name("demo")
    path, _, key = place.partition("?viewStateShareKey=")
    assert path == f"#/experiments/{experiment.experiment_id}/runs"
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
    assert view["selectedColumns"] == ["metrics.`gain`", "params.`method.adapter.kind`"]


def test_sweep_without_a_finished_trial_is_failed(sweep_folder: Path) -> None:
    story = Story()
    story.begin("t001")
    story.end("t001", "FAILED", reason="out of memory")
    story.say("sweep_ended", front=[], champion=None, reason="no trial finished")
    project(sweep_folder, story.lines)
    assert runs_of(sweep_folder)["sweep"].info.status == "FAILED"
    assert models_of(sweep_folder) == []


def test_second_sweep_of_a_name_is_another_run_of_one_experiment(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story())
    later = [{**line, "time": line["time"] + 1000} for line in whole_story()]
    project(sweep_folder.parent / "demo-2", later)
    client = client_of(sweep_folder)
    experiment = client.get_experiment_by_name("demo")
    assert len(client.search_runs([experiment.experiment_id])) == 10


def test_surplus_run_of_a_repeated_request_is_removed(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story())
    before, client = shown(sweep_folder), client_of(sweep_folder)
    trial = runs_of(sweep_folder)["t001"]
    client.create_run(trial.info.experiment_id, tags=dict(trial.data.tags))
    project(sweep_folder, whole_story())
    assert shown(sweep_folder) == before


def test_damaged_adapter_is_noted_and_stops_nothing(sweep_folder: Path) -> None:
    (sweep_folder / "trials" / "t001" / "adapter" / "adapter_model.safetensors").unlink()
    project(sweep_folder, whole_story())
    runs = runs_of(sweep_folder)
    assert "holds no adapter" in runs["t001"].data.tags["orchestrator.model_refused"]
    assert runs["sweep"].info.status == "FINISHED"


def test_long_values_are_cut_and_whole_in_the_artifact(sweep_folder: Path) -> None:
    modules = [f"layer_{i}.q_proj" for i in range(800)]
    story = Story(method={"adapter": {"kind": "lora", "target_modules": modules}},
                  training={"deepspeed": {"odd key {x}": {"deep": [1, 2]}}})  # fmt: skip
    story.begin("t001")
    story.end("t001", "FAILED", reason="x" * 9000)
    project(sweep_folder, story.lines)
    run = runs_of(sweep_folder)["t001"]
    assert len(run.data.params["method.adapter.target_modules"]) == 6000
    assert run.data.params["training.deepspeed.odd key _x_.deep"] == "[1, 2]"
    assert run.data.tags["orchestrator.reason"].endswith("x...")
    document = json.loads(shown(sweep_folder)["t001"][3]["experiment.json"])
    assert document["method"]["adapter"]["target_modules"] == modules


def test_credentials_never_reach_mlflow(sweep_folder: Path) -> None:
    story = Story(tracking={"uri": "https://ada:sesame@mlflow.example/x?token=sesame"})
    story.lines[0]["yaml"] = "tracking:\n  uri: https://ada:sesame@mlflow.example/x?token=sesame\n"
    story.begin("t001")
    story.learn("t001")
    story.end("t001")
    story.say("sweep_ended", front=["t001"], champion="t001", reason="largest gain")
    project(sweep_folder, story.lines)
    assert "https://***@mlflow.example/x?token=***" in str(shown(sweep_folder))
    written = [sweep_folder.parent / "mlflow.db", *(sweep_folder.parent / "mlartifacts").rglob("*")]
    assert not [path for path in written if path.is_file() and b"sesame" in path.read_bytes()]


def test_default_address_is_sqlite_in_storage(tmp_path: Path) -> None:
    assert tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracking_uri("http://host:5000", tmp_path) == "http://host:5000"


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_unreachable_server_is_reported_soon_and_without_credentials(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = f"http://ada:sesame@127.0.0.1:{closed_port()}"
    begin = time.monotonic()
    with pytest.raises(TrackingError, match=r"refused.*journal\.jsonl holds everything") as caught:
        Projection(uri, tmp_path / "demo").catch_up(whole_story())
    assert time.monotonic() - begin < 30
    assert "http://***@127.0.0.1" in str(caught.value)
    output = capfd.readouterr()
    assert "sesame" not in str(caught.value) + output.out + output.err
    assert caught.value.__cause__ is None


def test_missing_database_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(TrackingError, match=r"\*\*\*@db.*pip install psycopg2-binary"):
        Projection("postgresql+psycopg2://ada:sesame@db/mlflow", tmp_path / "demo").check()


def test_a_server_that_never_answers_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The user's own bounds are kept; ours allow three attempts of 7 seconds.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        begin = time.monotonic()
        with pytest.raises(TrackingError, match="timed out"):
            Projection(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path / "demo").check()
    assert time.monotonic() - begin < 5


def test_catching_up_works_after_a_failure(
    sweep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    projection = Projection(uri_of(sweep_folder), sweep_folder)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_text", _no_space)
        with pytest.raises(TrackingError, match="No space left"):
            projection.catch_up(whole_story())
    projection.catch_up(whole_story())
    before = shown(sweep_folder)
    project(sweep_folder, whole_story())
    assert shown(sweep_folder) == before
    assert before["sweep"][4] == "FINISHED"


def _no_space(*args: Any, **kwargs: Any) -> None:
    raise OSError(28, "No space left on device")


def test_folder_and_unwritable_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="MLflow 3 records into databases"):
        Projection("./mlruns", tmp_path / "demo").check()
    with pytest.raises(TrackingError, match="unable to open database file"):
        Projection("sqlite:////proc/none/mlflow.db", tmp_path / "demo").check()


def test_deleted_experiment_is_explained(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story()[:1])
    client = client_of(sweep_folder)
    client.delete_experiment(client.get_experiment_by_name("demo").experiment_id)
    with pytest.raises(TrackingError, match="experiments restore"):
        project(sweep_folder, whole_story())


def test_importing_the_room_does_not_import_mlflow() -> None:
    check = "import sys, orchestrator.records.mlflow.projection; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.slow
def test_a_fresh_database_is_made_without_a_word(tmp_path: Path) -> None:
    write_adapter(tmp_path / "demo" / "trials" / "t001" / "adapter")
    (tmp_path / "lines.json").write_text(json.dumps(whole_story()))
    check = (
        "import json, pathlib, sys; from orchestrator.records.mlflow.projection import Projection; "
        "root = pathlib.Path(sys.argv[1]); lines = json.loads((root / 'lines.json').read_text()); "
        "Projection(f'sqlite:///{root}/mlflow.db', root / 'demo').catch_up(lines)"
    )
    command = [sys.executable, "-W", "ignore", "-c", check, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout + result.stderr == ""


# --- whatever goes wrong -------------------------------------------------------------------------


class ClientError(Exception):
    """As stores of artifacts raise them: neither an OSError nor MLflow's own."""


def _error_of_migrations() -> Exception:
    from alembic.util.exc import CommandError

    return CommandError("Can't locate revision identified by 'd0e1f2a3b4c5'")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ClientError("An error occurred (SlowDown): reduce your request rate"),
         r"ClientError: An error occurred \(SlowDown\): reduce your request rate \(\w+\.py, line"),
        (_error_of_migrations(), "CommandError: Can't locate revision"),
        (KeyError("x"), r"KeyError: 'x' \("),
        (ZeroDivisionError(), r"ZeroDivisionError \("),
    ],
)  # fmt: skip
def test_any_error_is_one_message_with_its_kind_and_what_is_safe(
    error: Exception, said: str, sweep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(MlflowClient, "log_text", refuse)
    with pytest.raises(TrackingError, match=rf"{said}.*holds everything.*the same command"):
        project(sweep_folder, whole_story())


def test_ctrl_c_stays_ctrl_c_whatever_a_library_makes_of_it(
    sweep_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from sqlalchemy.exc import PendingRollbackError

    def interrupted(*args: Any, **kwargs: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise PendingRollbackError("Can't reconnect until invalid transaction is rolled back.")

    monkeypatch.setattr(MlflowClient, "log_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        project(sweep_folder, whole_story())


def test_a_lost_database_is_made_anew_with_its_champion(
    sweep_folder: Path, empty_database: Path
) -> None:
    project(sweep_folder, whole_story())
    (sweep_folder.parent / "mlflow.db").unlink()
    shutil.copyfile(empty_database, sweep_folder.parent / "mlflow.db")
    project(sweep_folder, whole_story())
    storage = sweep_folder.parent
    assert (resolve("demo@champion", uri_of(sweep_folder), storage) / "model.json").is_file()
    assert set(runs_of(sweep_folder)) == {"sweep", "base", "t001", "t002", "t003"}


# --- nobody runs it any more ---------------------------------------------------------------------


def statuses(sweep_folder: Path) -> dict[str, tuple[str, Any]]:
    return {n: (run.info.status, run.info.end_time) for n, run in runs_of(sweep_folder).items()}


def test_what_nobody_runs_is_killed_until_somebody_goes_on(sweep_folder: Path) -> None:
    story = Story()
    story.base()
    story.begin("t001")
    story.begin("t002")
    story.end("t002", "FAILED", reason="the loss became NaN")
    projection = Projection(uri_of(sweep_folder), sweep_folder)
    projection.catch_up(story.lines)
    assert statuses(sweep_folder)["t001"] == ("RUNNING", None)
    projection.catch_up(story.lines, running=False)
    last = round((START + len(story.lines) - 1) * 1000)
    for name, status in (("sweep", "KILLED"), ("t001", "KILLED"), ("t002", "FAILED")):
        assert statuses(sweep_folder)[name] == (status, last), name
    story.begin("t001", attempt=2)
    project(sweep_folder, story.lines)
    assert statuses(sweep_folder)["sweep"][0] == statuses(sweep_folder)["t001"][0] == "RUNNING"
    story.learn("t001")
    story.end("t001")
    project(sweep_folder, story.lines)
    assert statuses(sweep_folder)["t001"] == ("FINISHED", round(story.lines[-1]["time"] * 1000))


def test_runs_of_a_sweep_whose_journal_is_gone_are_ended(sweep_folder: Path) -> None:
    lost, other, after = Story(), Story(), Story()
    for number, story in enumerate((lost, other, after)):
        story.lines[0]["sweep_id"] = f"{number}" * 32
        story.base()
        story.begin("t001")
    project(sweep_folder, lost.lines)
    project(sweep_folder.with_name("demo-2"), other.lines)
    notes: list[str] = []
    Projection(uri_of(sweep_folder), sweep_folder, say=notes.append).catch_up(after.lines)
    client = client_of(sweep_folder)
    experiment = client.get_experiment_by_name("demo").experiment_id
    for number, status in (("0", "KILLED"), ("1", "RUNNING"), ("2", "RUNNING")):
        runs = client.search_runs([experiment], f"tags.`orchestrator.sweep` = '{number * 32}'")
        begun = [run for run in runs if run.data.tags.get("orchestrator.trial") != "base"]
        assert [run.info.status for run in begun] == [status] * 2
        assert (begun[0].data.tags.get("orchestrator.reason") == "the sweep's journal is gone") == (
            status == "KILLED"
        )
    assert any("2 run(s)" in note for note in notes)


def test_a_sweep_that_was_given_up_has_failed(sweep_folder: Path) -> None:
    story = Story()
    story.say("sweep_stopped", reason="all trials have failed", trials=["t001"])
    project(sweep_folder, story.lines)
    assert statuses(sweep_folder)["sweep"][0] == "FAILED"


# --- what people did in MLflow -------------------------------------------------------------------


def test_what_somebody_deleted_stays_deleted(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story()[:-3])
    client, runs = client_of(sweep_folder), runs_of(sweep_folder)
    for name in ("t001", "t003"):
        client.delete_run(runs[name].info.run_id)
    said: list[str] = []
    Projection(uri_of(sweep_folder), sweep_folder, say=said.append).catch_up(whole_story())
    assert set(runs_of(sweep_folder)) == {"sweep", "base", "t002"}
    assert not models_of(sweep_folder)
    assert said == ["deleted in MLflow, and not made again: t001, t003"]


def test_a_sweep_whose_own_run_was_deleted_says_how_to_bring_it_back(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story()[:-1])
    own = runs_of(sweep_folder)["sweep"].info.run_id
    client_of(sweep_folder).delete_run(own)
    projection = Projection(uri_of(sweep_folder), sweep_folder)
    projection.catch_up(whole_story())
    assert set(runs_of(sweep_folder)) == {"base", "t001", "t002", "t003"}
    with pytest.raises(TrackingError, match=f"was deleted.*mlflow runs restore --run-id {own}"):
        projection.attach(report_folder(sweep_folder))


def test_a_renamed_experiment_is_found_again(sweep_folder: Path) -> None:
    project(sweep_folder, whole_story()[:-4])
    client = client_of(sweep_folder)
    experiment = client.get_experiment_by_name("demo").experiment_id
    client.rename_experiment(experiment, "a better name")
    project(sweep_folder, whole_story())
    assert client.get_experiment_by_name("demo") is None
    assert len(client.search_runs([experiment])) == 5
    assert (resolve("demo@champion", uri_of(sweep_folder), sweep_folder.parent)).is_dir()


def test_sweeps_of_one_name_in_two_storages_keep_to_themselves(
    tmp_path: Path, empty_database: Path
) -> None:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    uri, said = f"sqlite:///{tmp_path}/mlflow.db", []
    for name, later in (("one", 0), ("two", 1000)):
        folder = tmp_path / name / "demo"
        write_adapter(folder / "trials" / "t001" / "adapter")
        lines = [{**line, "time": line["time"] + later} for line in whole_story()]
        Projection(uri, folder, say=said.append).catch_up(lines)
    found = {name: resolve("demo@champion", uri, tmp_path / name) for name in ("one", "two")}
    for name, folder in found.items():
        assert folder.is_relative_to(tmp_path / name / "mlartifacts")
    assert champion_record("demo", uri, tmp_path / "one")["model"] == "demo"
    other = champion_record("demo", uri, tmp_path / "two")["model"]
    assert other.startswith("demo-")
    assert said == [
        f"MLflow has an experiment 'demo' of another storage folder; this one's is named {other!r}"
    ]


# --- storage folders that move -------------------------------------------------------------------


def test_a_copied_storage_folder_writes_nothing_into_what_the_original_records(
    tmp_path: Path, empty_database: Path
) -> None:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    uri, lines = f"sqlite:///{tmp_path / 'mlflow.db'}", whole_story()
    original = tmp_path / "original"
    write_adapter(original / "demo" / "trials" / "t001" / "adapter")
    Projection(uri, original / "demo").catch_up(lines[:-4])
    copy = shutil.copytree(original, tmp_path / "copy")
    for storage in (copy, original):
        projection = Projection(uri, storage / "demo")
        projection.catch_up(lines)
        assert projection.register(lines, just_decided=False).version == "1"
    client = connect(uri)
    found = client.search_experiments(filter_string="name LIKE 'demo%'")
    assert len(found) == 2
    for experiment in found:
        place = original if experiment.name == "demo" else copy
        assert experiment.artifact_location.startswith(place.as_uri())
        assert len(client.search_runs([experiment.experiment_id])) == 5
    assert len(client.search_registered_models()) == 2


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_moved_or_copied_storage_folder_goes_on_working(
    how: str, tmp_path: Path, empty_database: Path
) -> None:
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    old, new = tmp_path / "old place?" / "runs", tmp_path / "new #%20\n'place'"
    write_adapter(old / "demo" / "trials" / "t001" / "adapter")
    shutil.copyfile(empty_database, old / "mlflow.db")
    Projection(tracking_uri(None, old), old / "demo").catch_up(whole_story()[:-2])
    if how == "moved":
        old.rename(new)
    else:
        shutil.copytree(old, new)
    _artifact_repos_cache.clear()  # as in the process of another command
    uri, said = tracking_uri(None, new), []
    projection = Projection(uri, new / "demo", say=said.append)
    projection.catch_up(whole_story())
    projection.attach(report_folder(new / "demo"))
    assert said == [
        f"MLflow's artifacts were recorded at another place and are now looked for in {new}"
    ]
    assert resolve("demo@champion", uri, new).is_relative_to(new)
    assert old.exists() == (how == "copied")
    assert not list(old.rglob("report")) if how == "copied" else True
    new.rename(tmp_path / "again")  # what only reads, rewrites nothing
    again = tmp_path / "again"
    folder = resolve("demo@champion", tracking_uri(None, again), again)
    assert folder.is_relative_to(again)
    record = champion_record("demo", tracking_uri(None, again), again)
    assert record["folder"] == str(again / "demo")
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()


def test_a_storage_folder_moves_away_from_under_a_database_elsewhere(
    tmp_path: Path, empty_database: Path
) -> None:
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    uri, old, new = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "old", tmp_path / "new"
    write_adapter(old / "demo" / "trials" / "t001" / "adapter")
    Projection(uri, old / "demo").catch_up(whole_story()[:-2])
    old.rename(new)
    _artifact_repos_cache.clear()
    Projection(uri, new / "demo").catch_up(whole_story())
    assert resolve("demo@champion", uri, new).is_relative_to(new)
    assert not old.exists()
    new.rename(tmp_path / "gone")
    with pytest.raises(TrackingError, match=r"files of demo@champion are gone.*--storage"):
        resolve("demo@champion", uri, tmp_path / "elsewhere")


# --- growth --------------------------------------------------------------------------------------


class _Client:
    """Takes everything and keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None

    def search_experiments(self, *args: Any, **kwargs: Any) -> list[Any]:
        return []

    def create_experiment(self, *args: Any, **kwargs: Any) -> str:
        return "1"

    def search_runs(self, *args: Any, **kwargs: Any) -> Any:
        return _Page()

    def create_run(self, *args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))


class _Page(list[Any]):
    token = None


def calls_of_a_report(trials: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many Python functions are called to project one more report, after so many trials."""
    monkeypatch.setattr(Projection, "_connected", lambda self: _Client())
    story = Story()
    story.base()
    for number in range(trials):
        story.begin(f"t{number:04d}")
        story.end(f"t{number:04d}", "FAILED")
    story.begin("last")
    projection = Projection("http://nowhere", folder / "demo")
    projection.catch_up(story.lines)
    story.report("last", 0, 0.5, None)
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        projection.catch_up(story.lines)
    finally:
        sys.setprofile(None)
    return calls


def test_the_cost_of_a_report_does_not_grow_with_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (calls_of_a_report(trials, tmp_path, monkeypatch) for trials in (250, 2000))
    assert 50 < few < 2000
    assert many == few
