"""A finished sweep of three trials over two tasks, with a champion and its test reading."""

import shutil
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app


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
