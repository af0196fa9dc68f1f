"""The recipes of CONTRIBUTING.md, as they stand there: plugins, and a whole sweep with them."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import orchestrator
from curlora import AdapterError, attach, load_adapter, trainable_parameters
from curlora.packing.pack import PackedModel
from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.plugins import LOADED, VARIABLE
from curlora_kinds.retentions.sizes import state_size
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.cli import app
from orchestrator.data.formats.placed_row import DataError
from orchestrator.data.task_preparation import prepare_task
from orchestrator.executors.pool.admission import packing_refuses
from orchestrator.records.errors import TrackingError
from orchestrator.records.journal_facts import effective_experiment, versions
from orchestrator.serving import find
from orchestrator.spec.load import load_experiment
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.plugins import load_plugins, unload_plugins
from orchestrator.spec.sections import ModelSpec
from orchestrator.spec.task_files import TaskFileError
from orchestrator.spec.validation import ExperimentError
from orchestrator.sweep.provenance import differing_versions, provenance_now
from orchestrator.sweep.run import run_sweep
from orchestrator.sweep.run_options import SweepOptions

ROOT = Path(__file__).parents[2]
RECIPES = dict(
    re.findall(
        r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$",
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)
PLUGINS = ("my_adapter", "my_retention", "my_measure", "my_task")


@pytest.fixture
def recipes(tiny_base, tiny_tasks, tmp_path, records, monkeypatch):
    """A folder with the recipes' files, a base and data; the folder of commands too."""
    for name, text in RECIPES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    shutil.copyfile(tiny_tasks / "tasks" / "mood.yaml", tmp_path / "tasks" / "mood.yaml")
    shutil.copytree(tiny_tasks / "data" / "mood", tmp_path / "data" / "mood")
    (tmp_path / "base").symlink_to(tiny_base)
    folder = tmp_path / "data" / "pairs"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [
            {"text": f"the {word} was {['good', 'bad', 'happy'][n % 3]}", "better": better,
             "first": "animal", "second": "thing"}
            for n, (word, better) in enumerate([("dog", "first"), ("book", "second")] * 12)
        ]  # fmt: skip
        rows = [row | {"text": f"{row['text']} {split} {n}"} for n, row in enumerate(rows)]
        lines = [json.dumps(row) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    yield tmp_path
    unload_plugins()


def edit(path, **fields):
    """Replace fields of a YAML file."""
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(document | fields, sort_keys=False))


def reported(lines, trial):
    """The stage reports of a trial."""
    events = [line for line in lines if line["event"] == "stage_report"]
    return [line["report"] for line in events if line["trial"] == trial]


def test_a_sweep_with_the_recipes_runs_and_its_model_is_used(recipes, recorder, monkeypatch):
    path = recipes / "my_sweep.yaml"
    outcome = run_sweep(load_experiment(path), SweepOptions(), recorder)
    ended = {line["trial"]: line for line in outcome.lines if line["event"] == "trial_ended"}
    states = {name: line["state"] for name, line in ended.items()}
    assert states == dict.fromkeys(("base", "t001", "t002"), "COMPLETE")
    for name in ("t001", "t002"):
        rows = [report["row"] for report in reported(outcome.lines, name) if report["row"]]
        assert ended[name]["measures"]["worst_task"] == min(rows[-1])
    one, other = (
        [loss for report in reported(outcome.lines, name) for loss in report["losses"]]
        for name in ("t001", "t002")
    )
    first = len(one) * 48 // (48 + 24)  # the training rows of the two tasks
    assert one[: first + 1] == other[: first + 1], "nothing is held before the second task's end"
    assert one != other, "the retention acts on the second task"

    # What the sweep was made with is recorded, and another source is a difference.
    was = versions(outcome.lines[0]["provenance"])
    assert {name: was[f"plugin {name}"] for name in PLUGINS} == {
        name: f"sha256:{LOADED[name].sha256}" for name in PLUGINS
    }
    unload_plugins()
    (recipes / "my_task.py").write_text(RECIPES["my_task.py"] + "# another source\n")
    load_experiment(path)
    [difference] = differing_versions(was, versions(provenance_now()))
    assert difference.startswith("plugin my_task sha256:")

    # Nothing that the sweep has left loads a plugin; what is missing is named.
    unload_plugins()
    document = outcome.lines[0]["experiment"]
    with pytest.raises(TrackingError, match=r"needs the plugin `my_adapter`, .*CURLORA_PLUGINS"):
        effective_experiment(document, {})
    adapter = outcome.folder / "trials" / "t002" / "adapter"
    with pytest.raises(AdapterError, match=r"of the kind 'hra'\. It needs the plugin `my_adapter`"):
        load_adapter(load_base(ModelSpec(name="base"), "fp32"), adapter)
    shown = CliRunner().invoke(app, ["runs", "show", "my-sweep", "--storage", "runs"])
    assert (shown.exit_code, "worst_task" in shown.output) == (0, True), shown.output
    assert not LOADED
    assert not set(PLUGINS) & set(sys.modules)

    # Who names them uses the model.
    monkeypatch.setenv(VARIABLE, ",".join(f"{name}.py" for name in PLUGINS))
    load_experiment(path)
    with find.model_folder("my-sweep/t002", Path("runs"), None) as folder:
        unload_plugins()
        monkeypatch.delenv(VARIABLE)
        with pytest.raises(TaskFileError, match=r"unknown kind 'better_of_two'.*`my_task`"):
            orchestrator.load(str(folder))
        monkeypatch.setenv(VARIABLE, ",".join(f"{name}.py" for name in PLUGINS))
        predictor = orchestrator.load(str(folder))
    row = {"text": "the dog was good", "first": "animal", "second": "thing"}
    [answer] = predictor.predict("pairs", [row])
    assert answer.label in {"animal", "thing"}
    assert sum(answer.probabilities.values()) == pytest.approx(1.0)


def test_plan_and_methods_know_them(recipes):
    runner = CliRunner()
    planned = runner.invoke(app, ["plan", "my_sweep.yaml"])
    assert planned.exit_code == 0, planned.output
    assert "hra" in planned.output
    unload_plugins()
    listed = runner.invoke(app, ["methods", "my_sweep.yaml", "--json"])
    kinds = {kind["kind"] for part in ("adapters", "retentions")
             for kind in json.loads(listed.output)[part]}  # fmt: skip
    assert {"hra", "anchor", "lora"} <= kinds
    checked = runner.invoke(app, ["tasks", "check", "tasks/pairs.yaml"])
    assert (checked.exit_code, "choice 1" in checked.output) == (0, True), checked.output


def test_what_cannot_be_packed_is_said_and_runs_by_itself(recipes):
    edit(recipes / "my_sweep.yaml", resources={"executor": "pool"})
    loaded = load_experiment(recipes / "my_sweep.yaml")
    refused = packing_refuses(loaded.experiment.method)
    assert refused == (
        "the adapter 'hra' is not one of curlora, lora, rslora, dora, which can be packed"
    )
    planned = CliRunner().invoke(app, ["plan", "my_sweep.yaml"])
    assert "the adapter 'hra' is not one of" in " ".join(planned.output.split())


def test_a_plugin_of_loras_family_can_be_packed(recipes):
    (recipes / "my_lora.py").write_text(
        "import dataclasses\n"
        "from curlora_kinds.adapters.lora_family.lora import KIND\n"
        "from curlora_kinds.adapters.lora_family.settings import lora_arguments\n"
        "MINE = dataclasses.replace(KIND, name='orthogonal',\n"
        "                           arguments=lora_arguments(init_lora_weights='orthogonal'))\n"
    )
    load_plugins(["my_lora"], recipes)
    method = MethodSpec.model_validate({"adapter": {"kind": "orthogonal"}})
    assert packing_refuses(method) is None
    settings = {"r": 2, "target_modules": ["q_proj"]}
    pack = PackedModel(load_base(ModelSpec(name="base"), "fp32"), ["q_proj"], capacity=1)
    pack.join(0, "orthogonal", settings, seed=3)
    alone = attach(load_base(ModelSpec(name="base"), "fp32"), "orthogonal", settings, seed=3)
    tensors = trainable_parameters(alone)
    assert all(tensor.abs().sum() > 0 for tensor in tensors.values()), "LoRA's own B begins at 0"
    assert pack.state(0).keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in pack.state(0).items())


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"adapter": {"kind": "hraa"}}, "unknown kind 'hraa'. Did you mean 'hra'?"),
        ({"adapter": {"kind": "hra", "r": 1}}, "method.adapter.r: .*greater than or equal to 2"),
        ({"adapter": {"kind": "hra", "r": 3}}, "`r` must be even for 'hra', got 3"),
        ({"adapter": {"kind": "hra", "rr": 2}}, "rr: unknown field. Did you mean 'r'?"),
        ({"adapter": {"kind": "lora"}, "retention": {"kind": "anchor", "strenght": 1}},
         "strenght: unknown field. Did you mean 'strength'?"),
        ({"adapter": {"kind": "lora"}, "retention": {"kind": "anchor", "strength": -1}},
         "strength: .*greater than or equal to 0"),
    ],
)  # fmt: skip
def test_settings_are_checked_as_those_of_our_own_kinds(recipes, method, said):
    edit(recipes / "my_sweep.yaml", method=method, search=None)
    with pytest.raises(ExperimentError, match=said.replace("?", r"\?")):
        load_experiment(recipes / "my_sweep.yaml")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"plugins": ["my_adaptor"]}, "my_sweep.yaml: plugins: There is no plugin 'my_adaptor'"),
        ({"plugins": ["my_task"]}, "unknown kind 'hra'"),
        ({"plugins": "my_task"}, "plugins: .*valid tuple"),
        ({"objectives": {"worst_tusk": "max"}}, "'worst_tusk'. Did you mean 'worst_task'?"),
        ({"plugins": [*PLUGINS, "./tasks/nothing.py"]}, "declares nothing"),
    ],
)
def test_what_is_wrong_with_the_list_is_told_with_the_file(recipes, fields, said):
    (recipes / "tasks" / "nothing.py").write_text("X = 1\n")
    edit(recipes / "my_sweep.yaml", **fields)
    with pytest.raises(ExperimentError, match=said.replace("?", r"\?")):
        load_experiment(recipes / "my_sweep.yaml")


def test_a_row_of_a_plugins_task_is_refused_with_its_place(recipes):
    file = recipes / "data" / "pairs" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(json.dumps(row | {"better": "third"}) for row in rows) + "\n")
    loaded = load_experiment(recipes / "my_sweep.yaml")
    tokenizer = load_tokenizer(loaded.experiment.model)
    limits = loaded.experiment.data
    with pytest.raises(DataError, match=r"train\.jsonl: line \d+: `better` must be one of"):
        prepare_task(loaded.tasks["pairs"], tokenizer, limits, max_length=48, learnt=True)


def test_predicted_sizes_are_those_of_the_recipes(recipes):
    load_experiment(recipes / "my_sweep.yaml")
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    model = attach(load_base(ModelSpec(name="base"), "fp32"), "hra", settings, seed=0)
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers = {f"{n}.{part}": (32, 32) for n in range(2) for part in ("q_proj", "v_proj")}
    trained = ADAPTERS["hra"].trained(settings, layers)
    assert trained == sum(p.numel() for p in params.values())
    retention = RETENTIONS["anchor"].build({"strength": 2})
    retention.begin_sequence(params, tasks=2)
    size = state_size("anchor", {}, adapter_kind="hra", r=4, layers=layers, trained=trained,
                      tasks=2, tokens_per_example=10.0)  # fmt: skip
    assert size.bytes == retention.state_bytes()


def test_experiments_and_tasks_take_their_plugins_to_another_process(recipes):
    loaded = load_experiment(recipes / "my_sweep.yaml")
    sent = recipes / "sent.pickle"
    sent.write_bytes(pickle.dumps((loaded.tasks["pairs"], loaded.experiment)))
    code = (
        "import pickle, pathlib\n"
        "task, experiment = pickle.loads(pathlib.Path('sent.pickle').read_bytes())\n"
        "from orchestrator.measures.objectives import MEASURES\n"
        "from orchestrator.spec.task_kinds import TASK_KINDS\n"
        "assert type(task) is TASK_KINDS['better_of_two'], task\n"
        "print(task.names_of({'first': 'a', 'second': 'b'}), experiment.method.name)\n"
        "print('worst_task' in MEASURES)\n"
    )
    (recipes / "elsewhere").mkdir()
    (recipes / "elsewhere" / "sent.pickle").write_bytes(sent.read_bytes())

    def received():
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False,
            cwd=recipes / "elsewhere", env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    told = received()
    assert told.stdout.splitlines() == ["['a', 'b'] hra + anchor", "True"], told.stderr
    (recipes / "my_task.py").write_text(RECIPES["my_task.py"] + "# another source\n")
    assert "not the source that the sweep goes on with" in received().stderr
    (recipes / "my_task.py").unlink()
    assert "There is no plugin" in received().stderr


@pytest.mark.ray
def test_ray_workers_load_them(recipes, ray_cluster):
    import ray

    loaded = load_experiment(recipes / "my_sweep.yaml")
    method = ray.remote(lambda experiment: experiment.method.name).remote(loaded.experiment)
    kind = ray.remote(lambda task: type(task).__name__).remote(loaded.tasks["pairs"])
    assert ray.get([method, kind]) == ["hra + anchor", "BetterOfTwo"]
