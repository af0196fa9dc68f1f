"""A finished sweep with a champion and its test reading, and model folders made by hand."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from typer.testing import CliRunner

import curlora
from orchestrator.base.identity import base_sha256, setup_sha256
from orchestrator.cli import app
from orchestrator.engines.checkpoints import write_tensors
from orchestrator.engines.linear_heads import HEADS_FILE, LinearHeads
from orchestrator.spec.sections import ModelSpec


def call(*words):
    """The command line, in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def chosen(tiny_base, tiny_tasks, empty_database, tmp_path_factory):
    """`storage` with the sweep `picked`; not to be changed."""
    storage = tmp_path_factory.mktemp("chosen") / "runs"
    storage.mkdir()
    shutil.copyfile(empty_database, storage / "mlflow.db")
    folder = tmp_path_factory.mktemp("tasks")
    # Two tasks that ask the same, so that little data teach both.
    for name in ("mood", "again"):
        text = (tiny_tasks / "tasks" / "mood.yaml").read_text()
        text = text.replace("name: mood", f"name: {name}")
        (folder / f"{name}.yaml").write_text(text.replace("..", str(tiny_tasks)))
    document = {
        "name": "picked", "model": {"name": str(tiny_base)},
        "tasks": [str(folder / "mood.yaml"), str(folder / "again.yaml")],
        "method": {"adapter": {
            "kind": "lora", "r": 8, "alpha": 16.0, "target_modules": "all-linear",
        }},
        "training": {
            "learning_rate": 0.003, "epochs": 6, "batch_size": 8, "max_length": 48,
            "precision": "fp32",
        },
        "search": {
            "space": {"training.learning_rate": {"choice": [0.003, 1.0e-5, 1.0e-6]}},
            "searcher": "grid", "trials": 3,
        },
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
        "resources": {"executor": "local"}, "storage": str(storage),
    }  # fmt: skip
    file = folder / "picked.yaml"
    file.write_text(yaml.safe_dump(document))
    done = call("sweep", file)
    assert done.exit_code == 0, done.output
    return SimpleNamespace(storage=storage, sweep=storage / "picked")


@pytest.fixture(scope="session")
def write_model(tiny_base):
    """Writes a model folder with a random adapter that does something."""

    def write(folder, kind, settings, tasks, *, seed=0, **document):
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(tiny_base)
        model = curlora.attach(base, kind, settings, seed=seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in curlora.trainable_parameters(model).values():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        folder.mkdir(parents=True)
        curlora.save_adapter(model, folder / "adapter")
        headed = {task["name"]: 2 for task in tasks if task.get("head")}
        if headed:
            heads = LinearHeads(headed, 32, seed=seed)
            tensors = {name: tensor * 20 for name, tensor in heads.named_tensors().items()}
            write_tensors(folder / "adapter" / HEADS_FILE, tensors)
        spec = ModelSpec(name=str(tiny_base))
        whole = {
            "base": {"name": str(tiny_base), "sha256": base_sha256(spec),
                     "setup_sha256": setup_sha256(spec)},
            "precision": "fp32", "max_length": 48, "tasks": {task["name"]: task for task in tasks},
            "trial": "t001", "sweep": folder.name,
        } | document  # fmt: skip
        (folder / "model.json").write_text(json.dumps(whole))
        return folder

    return write
