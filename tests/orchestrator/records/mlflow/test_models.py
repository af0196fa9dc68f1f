"""Logged models and the registry, against real MLflow on SQLite; no model is run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from orchestrator.records.errors import TrackingError, UnknownModelError
from orchestrator.records.event import Line
from orchestrator.records.mlflow.champion import register_champion
from orchestrator.records.mlflow.client import connect
from orchestrator.records.mlflow.glance.look import Look, look
from orchestrator.records.mlflow.projection import Projection
from orchestrator.records.mlflow.registry import champion_record, resolve
from orchestrator.records.mlflow.version_tags import version_tags
from orchestrator.records.model_folder import write_model_folder
from orchestrator.records.redaction import redacted
from orchestrator.records.registry.by_hand import AliasSeen
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.experiment import Experiment

LABELS = {"0": " bad", "1": " good"}
LATER_TORCH = "9.9.0"
"""With which the second trial is made; no such version is installed anywhere."""


def task_document(name: str, kind: str) -> dict[str, Any]:
    shared = {"name": name, "data": {"files": "/data"}, "kind": kind}
    if kind == "classification":
        return {**shared, "prompt": "{text}\nAnswer:", "labels": LABELS}
    return {**shared, "prompt": "{question}", "choices_column": "choices"}


def journal_lines(
    *, champion: str | None = "t001", start: float = 1_700_000_000.0, **training: Any
) -> list[Line]:
    experiment = Experiment.model_validate({
        "name": "demo",
        "model": {"name": "base-model"},
        "tasks": ["movies", "quiz"],
        "method": {"adapter": {"kind": "curlora", "r": 4, "selection_seed": 5}},
        "training": {"seed": 3, "max_length": 64, **training},
        "search": {"space": {}, "seed": 7},
        "objectives": {"gain": "max"},
        "champion": {"subject_to": {}},
    }).model_dump(mode="json")  # fmt: skip
    provenance = {
        "base": {"name": "base-model", "sha256": "b" * 64},
        "data": {"movies": "d" * 64},
        "code": {"version": "0.1.0", "commit": "abc"},
        "packages": {"torch": "2.13.0"},
    }
    tasks = {
        "movies": task_document("movies", "classification"),
        "quiz": task_document("quiz", "multiple_choice"),
    }
    events: list[dict[str, Any]] = [
        {"event": "sweep_opened", "sweep": "demo", "kind": "sweep", "experiment": experiment,
         "tasks": tasks, "yaml": "name: demo\n", "origin": "demo.yaml",
         "provenance": provenance, "controls": {}}
    ]  # fmt: skip
    versions: dict[str, str] = {}
    for trial, rank in (("t001", 8), ("t002", 16)):
        overrides = {"method.adapter.r": rank}
        events += [
            {"event": "trial_proposed", "trial": trial, "overrides": overrides, "by": "tpe"},
            {"event": "trial_started", "trial": trial, "attempt": 1, "versions": versions},
            {"event": "trial_ended", "trial": trial, "state": "COMPLETE", "reason": "",
             "measures": {"gain": 0.25}, "gain_interval": [0.125, 0.375],
             "adapter": f"trials/{trial}/adapter", "log": None},
        ]  # fmt: skip
        if trial == "t001":  # the next is made with another torch
            versions = {"torch": LATER_TORCH, "code": "0.1.0 (abc)"}
            events.append({"event": "sweep_continued", "packages": {"torch": LATER_TORCH}})
    reason = "largest gain" if champion else "no method beats the untouched base"
    events.append(
        {"event": "sweep_ended", "front": ["t001", "t002"], "champion": champion, "reason": reason}
    )
    return [{"n": n, "time": start + n, **event} for n, event in enumerate(events)]


def write_adapter(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "README.md").write_text("written by PEFT")
    save_file({"w": torch.zeros(1)}, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def storage(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sweeps of one name, projected; the first has a registered champion."""
    storage = tmp_path_factory.mktemp("storage")
    shutil.copyfile(empty_database, storage / "mlflow.db")
    for folder, start in (("demo", 1_700_000_000.0), ("demo-2", 1_800_000_000.0)):
        for trial in ("t001", "t002"):
            write_adapter(storage / folder / "trials" / trial / "adapter")
        projection = Projection(address(storage), storage / folder)
        projection.catch_up(journal_lines(start=start))
    register_champion(
        address(storage), sweep_folder=storage / "demo", state=SweepState.of(journal_lines())
    )
    return storage


@pytest.fixture
def fresh_storage(empty_database: Path, tmp_path: Path) -> Path:
    """A storage in which nothing has been recorded."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return tmp_path


def address(storage: Path) -> str:
    return f"sqlite:///{storage / 'mlflow.db'}"


@dataclass
class Prediction:
    label: str
    by_position: tuple[float, ...]
    probability: float


class FakePredictor:
    """Answers with the first label; remembers what it was asked."""

    asked: Sequence[tuple[str, list[Mapping[str, Any]]]] = ()

    @classmethod
    def from_folder(
        cls, folder: Path, *, adapter: bool = True, base: Path | None = None
    ) -> FakePredictor:
        assert (folder / "adapter" / "adapter_model.safetensors").is_file()
        return cls()

    def predict(self, task: str, rows: list[Mapping[str, Any]]) -> list[Prediction]:
        type(self).asked = [*self.asked, (task, rows)]
        return [Prediction("0", (0.75, 0.25), 0.75) for _ in rows]


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> type[FakePredictor]:
    module = ModuleType("orchestrator.serving.predictor")
    module.Predictor = FakePredictor  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "orchestrator.serving.predictor", module)
    monkeypatch.setattr(FakePredictor, "asked", ())
    return FakePredictor


def test_model_folder_holds_json_and_safetensors_only(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    lines = journal_lines()
    folder = write_model_folder(
        tmp_path / "model", adapter_folder=adapter, state=SweepState.of(lines), trial="t002"
    )
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == [
        "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "card.json",
        "model.json", "seal.json",
    ]  # fmt: skip
    document = json.loads((folder / "model.json").read_text())
    assert document["base"] == {
        "name": "base-model", "revision": None, "gguf": None, "quantization": None,
        "sha256": "b" * 64, "setup_sha256": None,
    }  # fmt: skip
    assert document["trial"] == "t002"
    assert document["overrides"] == {"method.adapter.r": 16}
    assert document["experiment"]["method"]["adapter"]["r"] == 16
    assert (document["precision"], document["max_length"]) == ("bf16", 64)
    assert list(document["tasks"]) == ["movies", "quiz"]
    assert document["measures"] == {"gain": 0.25}


def test_pickled_adapter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Pickled weights \(`.bin`\) are never read"):
        write_model_folder(
            tmp_path / "model",
            adapter_folder=folder,
            state=SweepState.of(journal_lines()),
            trial="t001",
        )


def test_champion_is_one_version_with_an_alias_and_its_origin(storage: Path) -> None:
    uri, folder = address(storage), storage / "demo"
    first = register_champion(uri, sweep_folder=folder, state=SweepState.of(journal_lines()))
    again = register_champion(uri, sweep_folder=folder, state=SweepState.of(journal_lines()))
    assert (first.model, first.version) == ("demo", again.version)
    assert "has the alias `champion`" in again.text
    record = champion_record("demo", uri, storage)
    assert record["trial"] == "t001"
    assert record["base"]["sha256"] == "b" * 64
    assert record["data"] == {"movies": "d" * 64}
    assert record["code"] == {"version": "0.1.0", "commit": "abc"}
    assert record["seeds"] == {"training": 3, "search": 7, "selection": 5}
    assert record["folder"] == str(folder)
    assert record["gain_interval"] == [0.125, 0.375]
    assert record["experiment_yaml"].endswith("/experiment.yaml")
    import mlflow.artifacts

    text = mlflow.artifacts.load_text(_artifact_of(uri, record["experiment_yaml"]))
    assert text == "name: demo\n"


def _artifact_of(uri: str, link: str) -> str:
    run, _, name = link.removeprefix("runs:/").partition("/")
    return f"{connect(uri).get_run(run).info.artifact_uri}/{name}"


def test_registered_model_is_found_by_alias_and_version(storage: Path) -> None:
    by_alias = resolve("demo@champion", address(storage), storage)
    assert json.loads((by_alias / "model.json").read_text())["trial"] == "t001"
    assert (by_alias / "adapter" / "adapter_model.safetensors").is_file()
    assert resolve("demo/1", address(storage), storage) == by_alias


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "dmeo@champion",
            r"No registered model 'dmeo'\. Did you mean 'demo'\? Registered models: demo\.",
        ),
        ("demo@best", r"no '@best'\. Aliases: champion \(version 1\)\. Versions: 1"),
        ("demo@champoin", r"no '@champoin'\. Did you mean 'champion'\? Aliases"),
        ("demo/99", r"no '/99'\. Aliases: champion"),
        ("demo", r"NAME@ALIAS or NAME/VERSION, got 'demo'\. For example demo@champion"),
    ],
)
def test_unknown_reference_names_what_there_is(storage: Path, reference: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        resolve(reference, address(storage), storage)


def test_no_champion_leaves_the_alias_of_an_earlier_sweep(storage: Path) -> None:
    lines = journal_lines(champion=None, start=1_800_000_000.0)
    outcome = register_champion(
        address(storage), sweep_folder=storage / "demo-2", state=SweepState.of(lines)
    )
    assert outcome.version is None
    assert "no method beats the untouched base" in outcome.text
    assert "still names version 1; it was not moved" in outcome.text
    assert champion_record("demo", address(storage), storage)["version"] == "1"


def test_no_champion_and_no_model_sets_nothing(fresh_storage: Path) -> None:
    uri = address(fresh_storage)
    outcome = register_champion(
        uri, sweep_folder=fresh_storage / "demo", state=SweepState.of(journal_lines(champion=None))
    )
    assert outcome.version is None
    assert "alias" not in outcome.text
    with pytest.raises(UnknownModelError, match="Registered models: none"):
        champion_record("demo", uri, fresh_storage)


def test_alias_follows_the_later_verdict_and_never_goes_back(fresh_storage: Path) -> None:
    for folder, start in (("demo", 1_700_000_000.0), ("demo-2", 1_800_000_000.0)):
        for trial in ("t001", "t002"):
            write_adapter(fresh_storage / folder / "trials" / trial / "adapter")
        lines = journal_lines(start=start)
        Projection(address(fresh_storage), fresh_storage / folder).catch_up(lines)
        outcome = register_champion(
            address(fresh_storage), sweep_folder=fresh_storage / folder, state=SweepState.of(lines)
        )
    assert outcome.version == "2"
    assert "got the alias `champion` instead of version 1" in outcome.text
    earlier = register_champion(
        address(fresh_storage),
        sweep_folder=fresh_storage / "demo",
        state=SweepState.of(journal_lines()),
    )
    assert earlier.version == "1"
    assert "stays with demo/t001, which was chosen later" in earlier.text
    assert champion_record("demo", address(fresh_storage), fresh_storage)["folder"] == str(
        fresh_storage / "demo-2"
    )


def sweep_of_two(storage: Path, folder: str = "demo") -> Path:
    for trial in ("t001", "t002"):
        write_adapter(storage / folder / "trials" / trial / "adapter")
    return storage / folder


def with_verdict(lines: list[Line], champion: str, seconds_later: float) -> list[Line]:
    """The same sweep with one verdict more, by a clock that has moved."""
    last = lines[-1]
    verdict = {"n": last["n"] + 1, "time": last["time"] + seconds_later, "event": "sweep_ended",
               "front": [champion], "champion": champion, "reason": "largest gain"}  # fmt: skip
    return [*lines, verdict]


def test_the_alias_follows_the_last_verdict_when_the_clock_steps_back(fresh_storage: Path) -> None:
    uri, folder = address(fresh_storage), sweep_of_two(fresh_storage)
    lines = journal_lines()
    for champion in ("t001", "t002", "t001"):  # and a champion may come back
        if champion != lines[-1]["champion"]:
            lines = with_verdict(lines, champion, seconds_later=-3600.0)
        Projection(uri, folder).catch_up(lines)
        outcome = register_champion(uri, sweep_folder=folder, state=SweepState.of(lines))
        assert outcome.version == {"t001": "1", "t002": "2"}[champion]
        assert champion_record("demo", uri, fresh_storage)["trial"] == champion


def test_a_verdict_of_this_moment_is_the_latest_whatever_the_clock_says(
    fresh_storage: Path,
) -> None:
    uri = address(fresh_storage)
    for name, start in (("demo", 1_800_000_000.0), ("demo-2", 1_700_000_000.0)):
        folder, lines = sweep_of_two(fresh_storage, name), journal_lines(start=start)
        Projection(uri, folder).catch_up(lines)
        register_champion(uri, sweep_folder=folder, state=SweepState.of(lines), just_decided=True)
    assert champion_record("demo", uri, fresh_storage)["version"] == "2"


def test_an_alias_that_somebody_moved_or_took_away_is_left_alone(fresh_storage: Path) -> None:
    uri, folder = address(fresh_storage), sweep_of_two(fresh_storage)
    lines = journal_lines()
    Projection(uri, folder).catch_up(lines)
    register_champion(uri, sweep_folder=folder, state=SweepState.of(lines))
    later = with_verdict(lines, "t002", 60.0)
    register_champion(uri, sweep_folder=folder, state=SweepState.of(later))
    client = connect(uri)
    client.set_registered_model_alias("demo", "champion", "1")
    last = with_verdict(later, "t002", 60.0)
    outcome = register_champion(
        uri, sweep_folder=folder, state=SweepState.of(last), just_decided=True
    )
    assert outcome.version == "2"
    assert "stays with version 1, which a user gave it to" in outcome.text
    assert "champion promote demo/t002" in outcome.text
    assert champion_record("demo", uri, fresh_storage)["version"] == "1"
    client.delete_registered_model_alias("demo", "champion")
    outcome = register_champion(uri, sweep_folder=folder, state=SweepState.of(last))
    assert "A user took the alias `champion` away in MLflow" in outcome.text
    with pytest.raises(UnknownModelError, match=r"no '@champion'. Aliases: none"):
        champion_record("demo", uri, fresh_storage)


def test_a_deleted_run_of_the_champion_says_how_to_bring_it_back(fresh_storage: Path) -> None:
    uri, folder = address(fresh_storage), sweep_of_two(fresh_storage)
    Projection(uri, folder).catch_up(journal_lines())
    client = connect(uri)
    experiment = client.get_experiment_by_name("demo").experiment_id
    run = client.search_runs([experiment], "tags.`orchestrator.trial` = 't001'")[0].info.run_id
    client.delete_run(run)
    with pytest.raises(TrackingError, match=f"was deleted.*mlflow runs restore --run-id {run}"):
        register_champion(uri, sweep_folder=folder, state=SweepState.of(journal_lines()))


def test_a_model_is_found_among_hundreds(fresh_storage: Path) -> None:
    client = connect(address(fresh_storage))
    for number in range(120):
        client.create_registered_model(f"m{number:03d}")
    with pytest.raises(UnknownModelError, match=r"model 'm119' has no '@champion'. Aliases: none"):
        resolve("m119@champion", address(fresh_storage), fresh_storage)
    with pytest.raises(UnknownModelError, match=r"Did you mean 'm119'\? .*m019 and 100 others"):
        resolve("m1199@champion", address(fresh_storage), fresh_storage)


def test_champion_needs_its_run(storage: Path) -> None:
    lines = journal_lines(start=1_900_000_000.0)
    with pytest.raises(TrackingError, match="Bring it up to date from the journal first"):
        register_champion(
            address(storage), sweep_folder=storage / "demo-3", state=SweepState.of(lines)
        )


class _KilledError(BaseException):
    """Stands for SIGKILL: nothing between the call and the test handles it."""


def test_a_kill_between_any_two_requests_gives_one_version(
    fresh_storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    for trial in ("t001", "t002"):
        write_adapter(fresh_storage / "demo" / "trials" / trial / "adapter")
    Projection(address(fresh_storage), fresh_storage / "demo").catch_up(journal_lines())

    def dying(real: Any) -> Any:
        def request(*args: Any, **kwargs: Any) -> Any:
            real(*args, **kwargs)
            raise _KilledError

        return request

    for name in ("create_registered_model", "create_model_version", "set_registered_model_alias"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, name, dying(getattr(MlflowClient, name)))
            with pytest.raises(_KilledError):
                register_champion(
                    address(fresh_storage),
                    sweep_folder=fresh_storage / "demo",
                    state=SweepState.of(journal_lines()),
                )
    outcome = register_champion(
        address(fresh_storage),
        sweep_folder=fresh_storage / "demo",
        state=SweepState.of(journal_lines()),
    )
    assert outcome.version == "1"
    assert "has the alias" in outcome.text
    assert len(connect(address(fresh_storage)).search_model_versions("name = 'demo'")) == 1


def test_mlflow_loads_the_model_and_asks_the_predictor(
    storage: Path, predictor: type[FakePredictor]
) -> None:
    import mlflow.pyfunc
    import pandas as pd

    folder = resolve("demo@champion", address(storage), storage)
    model = mlflow.pyfunc.load_model(str(folder.parents[1]))
    frame = pd.DataFrame({"text": ["fine", "dull"], "unused": [1, 2]}, index=[4, 9])
    answer = model.predict(frame)
    assert list(answer.columns) == ["label", "probability", "probability_0", "probability_1"]
    assert list(answer["label"]) == ["0", "0"]
    assert list(answer["probability_1"]) == [0.25, 0.25]
    assert list(answer.index) == [4, 9]
    quiz = pd.DataFrame({"question": ["2 + 2?"], "choices": [["3", "4"]]})
    model.predict(quiz, params={"task": "quiz"})
    (first, rows), (second, quiz_rows) = predictor.asked
    assert (first, second) == ("movies", "quiz")
    assert [row["text"] for row in rows] == ["fine", "dull"]
    assert list(quiz_rows[0]["choices"]) == ["3", "4"]
    with pytest.raises(ValueError, match=r"one of \['movies', 'quiz'\], got 'poems'"):
        model.predict(frame, params={"task": "poems"})
    with pytest.raises(ValueError, match=r"\['choices', 'question'\] are missing from"):
        model.predict(frame[["text"]], params={"task": "quiz"})


def test_a_real_champion_answers_through_mlflow(tiny_base: Path, fresh_storage: Path) -> None:
    import mlflow.pyfunc
    import pandas as pd
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from curlora import CurloraConfig
    from orchestrator.base.identity import base_sha256
    from orchestrator.spec.sections import ModelSpec

    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    config = CurloraConfig(r=8, target_modules=["q_proj"])
    for trial in ("t001", "t002"):
        folder = fresh_storage / "demo" / "trials" / trial / "adapter"
        get_peft_model(base, config).save_pretrained(str(folder))
        base = AutoModelForCausalLM.from_pretrained(tiny_base)
    lines = journal_lines()
    lines[0]["experiment"]["model"]["name"] = str(tiny_base)
    spec = ModelSpec(name=str(tiny_base))
    lines[0]["provenance"]["base"] = {"name": spec.name, "sha256": base_sha256(spec)}
    Projection(address(fresh_storage), fresh_storage / "demo").catch_up(lines)
    register_champion(
        address(fresh_storage), sweep_folder=fresh_storage / "demo", state=SweepState.of(lines)
    )
    root = resolve("demo@champion", address(fresh_storage), fresh_storage).parents[1]
    model = mlflow.pyfunc.load_model(str(root))
    answer = model.predict(pd.DataFrame({"text": ["a good film", "a bad book"]}))
    assert set(answer["label"]) <= {"0", "1"}
    assert list(answer["probability_0"] + answer["probability_1"]) == pytest.approx([1.0, 1.0])
    quiz = pd.DataFrame({"question": ["a dog is"], "choices": [["animal", "thing", "red"]]})
    choice = model.predict(quiz, params={"task": "quiz"})
    assert choice["label"][0] in {"animal", "thing", "red"}
    assert choice[[f"probability_{i}" for i in range(3)]].sum(axis=1)[0] == pytest.approx(1.0)


def test_logged_model_states_its_needs_and_its_columns(storage: Path) -> None:
    from mlflow.models import Model

    root = resolve("demo@champion", address(storage), storage).parents[1]
    flavor = Model.load(str(root)).flavors["python_function"]
    assert flavor["loader_module"] == "orchestrator.model_registry"
    assert "python_model" not in flavor
    assert not [p for p in root.rglob("*") if p.suffix in {".pkl", ".bin", ".pt"}]
    needs = (root / "requirements.txt").read_text()
    for package in ("curlora-orchestrator", "torch", "transformers", "peft", "safetensors"):
        assert f"{package}==" in needs
    assert "+cpu" not in needs
    signature = Model.load(str(root)).signature
    assert signature is not None
    assert signature.inputs.input_names() == ["text", "question", "choices"]
    assert signature.inputs.required_input_names() == []
    assert json.loads((root / "input_example.json").read_text())["columns"] == ["text"]


def test_a_trials_own_packages_are_a_tag_of_its_run_the_pins_of_its_model_and_in_its_version(
    storage: Path,
) -> None:
    import mlflow.artifacts

    client = connect(address(storage))
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    found: dict[str, list[Any]] = {}
    for run in client.search_runs([experiment.experiment_id]):
        found.setdefault(run.data.tags.get("orchestrator.trial", ""), []).append(run)
    assert "orchestrator.versions" not in found["t001"][0].data.tags, "those of the sweep"
    for run in found["t002"]:
        made_with = json.loads(run.data.tags["orchestrator.versions"])
        assert made_with == {"torch": LATER_TORCH, "code": "0.1.0 (abc)"}
    models = client.search_logged_models([experiment.experiment_id]).to_list()
    pins = {
        model.tags["orchestrator.trial"]: mlflow.artifacts.load_text(
            f"{model.artifact_location}/requirements.txt"
        ).split()
        for model in models
    }
    assert f"torch=={LATER_TORCH}" in pins["t002"]
    assert "torch==2.13.0" in pins["t001"]
    for trial, version in (("t001", "2.13.0"), ("t002", LATER_TORCH)):
        tags = version_tags(SweepState.of(journal_lines()), trial, storage / "demo", 2)
        assert json.loads(tags["orchestrator.packages"]) == {"torch": version}


@pytest.fixture
def server(empty_database: Path, tmp_path: Path) -> Iterator[str]:
    """The address, with credentials, of an MLflow server that keeps its artifacts to itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copyfile(empty_database, folder / "mlflow.db")
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/health")
            yield f"http://ada:sesame@127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(url: str) -> None:
    for _ in range(480):
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(0.25)
        else:
            return
    pytest.fail("the MLflow server did not start within two minutes")


@pytest.mark.slow
def test_a_server_holds_the_model_and_nobody_prints_its_credentials(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for trial in ("t001", "t002"):
        write_adapter(tmp_path / "demo" / "trials" / trial / "adapter")
    lines = journal_lines()
    Projection(server, tmp_path / "demo").catch_up(lines)
    register_champion(server, sweep_folder=tmp_path / "demo", state=SweepState.of(lines))
    folder = resolve("demo@champion", server, tmp_path, cache=tmp_path / "cache")
    assert folder.is_relative_to(tmp_path / "cache")
    assert json.loads((folder / "model.json").read_text())["trial"] == "t001"
    assert resolve("demo/1", server, tmp_path, cache=tmp_path / "cache") == folder
    assert champion_record("demo", server, tmp_path)["trial"] == "t001"
    assert look(server, tmp_path, "demo") == Look(AliasSeen("demo", "1", "1"))
    connect(server).delete_registered_model_alias("demo", "champion")
    assert look(server, tmp_path, "demo") == Look(AliasSeen("demo", None, "1"))
    connect(server).set_registered_model_alias("demo", "champion", "1")
    connect(server).set_registered_model_tag("demo", "orchestrator.alias_version", "7")
    moved = look(server, tmp_path, "demo").seen
    assert moved is not None
    assert (moved.version, moved.ours, moved.tags["trial"]) == ("1", "7", "t001")
    assert not (tmp_path / "mlartifacts").exists()
    output = capfd.readouterr()
    assert output.out + output.err == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ada:sesame@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://ada:se@same@db/mlflow", "postgresql://***@db/mlflow"),
        ("postgresql://ada:ses/ame@db/mlflow", "postgresql://***@db/mlflow"),
        ("https://token@host", "https://***@host"),
        ("at http://host:5000, see demo@champion", "at http://host:5000, see demo@champion"),
        ("postgresql://db/m?user=ada&password=sesame", "postgresql://db/m?user=ada&password=***"),
        ("sqlite:////home/ada@work/mlflow.db", "sqlite:////home/ada@work/mlflow.db"),
    ],
)
def test_credentials_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_home_folder_that_keeps_no_model_is_told_as_such(monkeypatch):
    from orchestrator.records import errors
    from orchestrator.records.mlflow import registry

    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    place = registry.model_cache() / "demo-0123"
    with pytest.raises(errors.TrackingError, match=r"Set XDG_CACHE_HOME to a folder"):
        registry.downloaded("mlflow-artifacts:/1/models/m", place, "http://127.0.0.1:1")
