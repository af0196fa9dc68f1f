"""Reading the test data once a verdict is made: by whom, how often, and what it says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.data.prepared import PreparedData
from orchestrator.executors.job import Job
from orchestrator.executors.local import run_locally
from orchestrator.executors.messages import Finished
from orchestrator.records.journal_lines import JOURNAL_NAME, read_journal
from orchestrator.records.mlflow.registry import champion_record
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.load import load_experiment
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions
from orchestrator.sweep.scores.readings import Side, read_sides
from orchestrator.sweep.scores.readings_on_ray import read_on_ray, read_sharded, received, sent
from orchestrator.system.seals import Maker
from tests.conftest import Recorder
from tests.process_group import in_two_workers

ZERO_3 = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}


def document(tiny_base, storage, **fields):
    """An experiment whose trials beat the base: `mood` is learnt to the end."""
    return {
        "name": "found", "model": {"name": str(tiny_base)}, "tasks": ["mood"],
        "method": {"adapter": {"kind": "lora", "r": 4, "target_modules": "all-linear"}},
        "training": {"learning_rate": 0.02, "batch_size": 8, "max_length": 48,
                     "precision": "fp32", "epochs": 6},
        "search": {"space": {"training.learning_rate": {"choice": [0.02, 0.01]}},
                   "searcher": "grid", "trials": 2},
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
        "resources": {"executor": "local"}, "storage": str(storage), **fields,
    }  # fmt: skip


def written(folder, name, **fields):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document(**fields), sort_keys=False))
    return path


def run(path, recorder):
    return run_sweep(load_experiment(path), SweepOptions(), recorder)


@pytest.fixture(scope="module")
def finished(tiny_base, tiny_tasks, empty_database, tmp_path_factory):
    """The storage of a sweep that has ended, with its champion and its reading."""
    storage = tmp_path_factory.mktemp("finished")
    shutil.copyfile(empty_database, storage / "mlflow.db")
    path = written(tiny_tasks, "finished", tiny_base=tiny_base, storage=storage)
    return run(path, Recorder()).folder


@pytest.fixture
def copied(finished, tiny_base, tiny_tasks, tmp_path):
    """Gives the experiment file of a copy of that sweep, whose journal's lines may be changed."""

    def copy(change=lambda lines: lines):
        storage = tmp_path / "runs"
        shutil.copytree(finished.parent, storage)
        lines = change(read_journal(storage / finished.name))
        text = "".join(json.dumps({**line, "n": n}) + "\n" for n, line in enumerate(lines))
        (storage / finished.name / JOURNAL_NAME).write_text(text)
        return written(tiny_tasks, f"copied-{tmp_path.name}", tiny_base=tiny_base, storage=storage)

    return copy


def without(*events):
    return lambda lines: [line for line in lines if line["event"] not in events]


def readings(lines):
    return [line for line in lines if line["event"] == "test_read"]


def test_a_verdict_has_its_test_data_read_once(finished, copied, recorder):
    lines = read_journal(finished)
    [verdict] = [line for line in lines if line["event"] == "sweep_ended"]
    champion = verdict["champion"]
    assert champion is not None, verdict["reason"]
    [reading] = readings(lines)
    assert reading["reading"] == 1
    assert reading["n"] > verdict["n"]
    assert set(reading["sides"]) == {"base", champion, verdict["runner_up"]}
    assert reading["examples"] == {"mood": 16}
    mine, base = (reading["sides"][name] for name in (champion, "base"))
    assert len(mine["per_example"]["mood"]) == 16
    gain = mine["row"][0] - base["row"][0]
    assert reading["gain"][champion] == pytest.approx(gain)
    low, high = reading["gain_intervals"][champion]
    assert low <= gain <= high
    assert reading["intervals"][champion]["zero_shot"] == [low, high]
    assert 0.2 <= reading["controls"]["majority"][0] <= 0.8
    assert 0.0 <= reading["controls"]["head_only"][0] <= 1.0
    # Nothing was scored on them before the verdict.
    assert all(
        len(scores) == 24
        for line in lines[: reading["n"]] if line["event"] == "stage_report"
        for scores in (line["report"]["per_example"] or {}).values()
    )  # fmt: skip
    record = champion_record("found", f"sqlite:///{finished.parent / 'mlflow.db'}", finished.parent)
    assert record["test"]["gain"] == reading["gain"][champion]
    path = copied()
    again = run(path, recorder)
    assert len(again.lines) == len(lines)
    assert not [note for note in recorder.notes if "reading" in note]


def test_a_reading_that_was_interrupted_is_made_by_the_same_command(finished, copied, recorder):
    lines = read_journal(finished)
    path = copied(without("test_read", "champion_registered"))
    outcome = run(path, recorder)
    [reading] = readings(outcome.lines)
    assert reading["sides"] == readings(lines)[0]["sides"]
    assert reading["reading"] == 1
    assert sum(line["event"] == "trial_started" for line in outcome.lines) == 3
    assert sum(line["event"] == "sweep_ended" for line in outcome.lines) == 1
    assert outcome.lines[-1]["event"] == "champion_registered"


def test_a_finished_sweep_of_an_earlier_version_gets_its_reading_and_keeps_its_verdict(
    copied, recorder
):
    def older(lines):
        kept = without("test_read")(lines)
        for line in kept:
            if line["event"] == "sweep_ended":
                del line["compared"], line["intervals"]
        return kept

    path = copied(older)
    outcome = run(path, recorder)
    assert any("reading the test examples" in note for note in recorder.notes)
    [verdict] = [line for line in outcome.lines if line["event"] == "sweep_ended"]
    assert "compared" not in verdict
    [reading] = readings(outcome.lines)
    assert reading["reading"] == 1
    storage = Path(yaml.safe_load(path.read_text())["storage"])
    record = champion_record("found", f"sqlite:///{storage / 'mlflow.db'}", storage)
    assert record["test"]["reading"] == 1


def test_an_adapter_that_is_gone_is_said_and_not_tried_for_ever(finished, copied, recorder):
    champion = readings(read_journal(finished))[0]["champion"]
    path = copied(without("test_read"))
    storage = Path(yaml.safe_load(path.read_text())["storage"])
    shutil.rmtree(storage / "found" / "trials" / champion / "adapter")
    outcome = run(path, recorder)
    [reading] = readings(outcome.lines)
    assert reading["reading"] is None
    assert "its adapter is gone" in reading["unread"][champion]
    assert "base" in reading["sides"]
    again = run(path, recorder)
    assert readings(again.lines) == [reading]


def prepared(path):
    """An experiment and its data, with the validation examples in the test examples' place."""
    loaded = load_experiment(path)
    data = prepare(loaded, load_tokenizer(loaded.experiment.model))
    tasks = {name: replace(task, test=task.validation) for name, task in data.tasks.items()}
    return loaded.experiment, PreparedData(tasks, data.hashes, data.controls)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": {"adapter": {"kind": "curlora", "r": 4, "target_modules": ["q_proj"]}}},
        {"head": "linear", "tasks": ["mood", "being"]},
        {"method": {"adapter": {"kind": "full"}}},
    ],
    ids=["curlora", "heads", "full"],
)
def test_a_saved_adapter_scores_what_its_trial_scored(tiny_base, tiny_tasks, tmp_path, fields):
    short = {"training": {"learning_rate": 0.01, "batch_size": 8, "max_length": 48,
                          "precision": "fp32"}}  # fmt: skip
    path = written(
        tiny_tasks, f"saved-{tmp_path.name}", tiny_base=tiny_base, storage=tmp_path,
        **{"search": None, **short, **fields},
    )  # fmt: skip
    experiment, data = prepared(path)
    said = []
    for name in ("t001", "base"):
        maker = Maker("sweep", name, "settings")
        run_locally(Job(experiment, maker, SweepFolder(tmp_path)), data, said.append)
    trial, base = (message.reports[-1] for message in said if isinstance(message, Finished))
    adapter = SweepFolder(tmp_path).checkpoint("t001") / "adapter"
    found = read_sides({"t001": Side(experiment, adapter), "base": Side(experiment, None)}, data)
    for name, report in (("t001", trial), ("base", base)):
        expected = {task: list(scores) for task, scores in report.per_example.items()}
        got = {task: list(scores) for task, scores in found[name]["per_example"].items()}
        assert got == expected
    assert found["base"]["head_only"].keys() == base.head_only.keys()


def test_what_cannot_be_scored_says_why(tiny_base, tiny_tasks, tmp_path):
    from safetensors.torch import load_file, save_file

    import curlora
    from orchestrator.base.loading import load_base

    path = written(tiny_tasks, f"broken-{tmp_path.name}", tiny_base=tiny_base, storage=tmp_path)
    experiment, data = prepared(path)
    model = curlora.attach(
        load_base(experiment.model, "fp32"), "lora", {"r": 2, "target_modules": ["q_proj"]}, seed=0
    )
    curlora.save_adapter(model, tmp_path / "broken")
    file = tmp_path / "broken" / "adapter_model.safetensors"
    save_file({name: tensor.fill_(float("nan")) for name, tensor in load_file(file).items()}, file)
    none = {n: replace(task, test=()) for n, task in data.tasks.items()}
    side = Side(experiment, tmp_path / "broken")
    found = read_sides({"broken": side, "gone": replace(side, adapter=tmp_path / "gone")}, data)
    assert "not finite" in found["broken"]["unread"] or "finite" in found["broken"]["unread"]
    assert "its adapter is gone" in found["gone"]["unread"]
    untested = read_sides({"broken": side}, PreparedData(none, data.hashes, data.controls))
    assert untested["broken"]["unread"] == "no task has test examples"


# --- on the cluster ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_sides(tiny_base, tiny_tasks, tmp_path_factory):
    """A saved adapter and the base, the data, and what one process reads of them."""
    import curlora
    from orchestrator.base.loading import load_base

    folder = tmp_path_factory.mktemp("sides")
    path = written(tiny_tasks, "sides", tiny_base=tiny_base, storage=folder)
    experiment, data = prepared(path)
    model = curlora.attach(
        load_base(experiment.model, "fp32"), "curlora",
        {"r": 4, "target_modules": ["q_proj", "down_proj"]}, seed=0,
    )  # fmt: skip
    for parameter in curlora.trainable_parameters(model).values():
        parameter.data.normal_(0.0, 0.2)
    curlora.save_adapter(model, folder / "adapter")
    sides = {"t001": Side(experiment, folder / "adapter"), "base": Side(experiment, None)}
    return sides, data, read_sides(sides, data)


@pytest.mark.ray
@pytest.mark.slow
def test_processes_on_the_cluster_read_the_same(two_sides, ray_cluster, tmp_path):
    sides, data, expected = two_sides
    resources = sides["base"].experiment.resources
    cells = {"cells": replace(sides["t001"], cells={"mood": 3})}
    found = read_on_ray({**sides, **cells}, data, resources, tmp_path / "test")
    assert found == {**expected, **read_sides(cells, data)}


def test_workers_are_told_which_cells_to_score(two_sides):
    sides, _, _ = two_sides
    for side in (*sides.values(), replace(sides["t001"], cells={"mood": 3})):
        got = received(sent(side))
        assert (got.adapter, got.cells) == (side.adapter, side.cells)
        assert got.experiment.tasks == side.experiment.tasks


def _worker(_rank, _folder, sides, data):
    return read_sharded(sides, data)


@pytest.mark.slow
def test_workers_that_hold_shards_of_the_base_read_the_same(two_sides, tmp_path):
    sides, data, expected = two_sides
    sharded = {}
    for name, side in sides.items():
        document = side.experiment.model_dump(mode="json")
        document["training"]["deepspeed"] = ZERO_3
        document["resources"]["executor"] = "train"
        sharded[name] = replace(side, experiment=type(side.experiment).model_validate(document))
    for found in in_two_workers(_worker, tmp_path, sharded, data):
        for name in sides:
            assert found[name]["row"] == pytest.approx(expected[name]["row"])
