"""A small sweep and a logged model as this version writes them, kept for later versions to open.

    .venv/bin/python -m benchmarks.example_record tests/records/0.1.0

A record is never written again: what it holds for a later version is that an earlier one wrote it.
`tests/test_old_records.py` opens every folder of `tests/records`, so a version that writes
something else adds a folder beside the others.

What a record holds: `example.yaml` with its `base`, `tasks` and `data`; the storage folder after
the sweep, without what can be made again (MLflow's database, caches, reports); the `model` that
MLflow was given of the champion; and `answers.json`, what that model says to some rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

PLACE = Path("/tmp/example")
"""Where the sweep runs. The journal holds it, so it is nobody's own folder."""
SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
ROWS = {
    "mood": ["good the film good", "awful is it awful", "happy dog and cat happy"],
    "being": ["dog very red dog", "book was a book", "cat that good cat"],
}
"""What the model is asked."""
DOCUMENT: dict[str, Any] = {
    "name": "example",
    "model": {"name": "base"},
    "tasks": ["mood", "being"],
    "probes": ["prose"],
    "method": {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]}},
    "training": {"batch_size": 8, "max_length": 48, "precision": "fp32", "learning_rate": 0.03},
    "data": {"probe_tokens": 100, "probe_context": 32, "rung_examples": 4},
    "search": {
        "space": {
            "method.adapter.kind": {"choice": ["lora", "curlora"]},
            "training.learning_rate": {"log_uniform": [0.01, 0.05]},
        },
        "first": [
            {"method.adapter.kind": "lora", "method.retention.kind": "replay",
             "training.epochs": 10, "training.learning_rate": 0.03},
            {"method.adapter.kind": "curlora"},
        ],
        "trials": 3,
    },
    "champion": {"subject_to": {"probe_drift": 2.0}},
    "resources": {"executor": "local"},
    "storage": "storage",
}  # fmt: skip


def write_record(target: Path) -> None:
    """Run the sweep and keep what it left.

    Args:
        target: A folder that is not there yet.

    Raises:
        SystemExit: If it is there, or the sweep named no champion.
    """
    if target.exists():
        raise SystemExit(f"{target} is there, and a record is never written again. Name another.")
    target = target.resolve()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    os.chdir(PLACE)
    _run_sweep()
    model = _champions_model()
    for name in ("example.yaml", "base", "tasks", "data"):
        _copy(PLACE / name, target / name)
    for kept in ("journal.jsonl", "trials"):
        _copy(PLACE / "storage/example" / kept, target / "storage/example" / kept)
    _copy(model, target / "model")
    answers = json.dumps(_answers(target), indent=1)
    (target / "answers.json").write_text(answers + "\n", encoding="utf-8")


def _run_sweep() -> None:
    import yaml

    from orchestrator.cli import app
    from tests.tiny import write_exact_base, write_tasks

    write_exact_base(PLACE / "base", "float32", **SIZES)
    write_tasks(PLACE)
    text = yaml.safe_dump(DOCUMENT, sort_keys=False)
    (PLACE / "example.yaml").write_text(text, encoding="utf-8")
    platform.platform = lambda *_, **__: "Linux"  # the journal need not name whose kernel it was
    code = app(["sweep", "example.yaml"], standalone_mode=False)
    if code:
        raise SystemExit(f"The sweep ended with {code}; its output says why.")


def _champions_model() -> Path:
    journal = (PLACE / "storage/example/journal.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in journal.splitlines()]
    [champion] = [line["champion"] for line in lines if line["event"] == "sweep_ended"]
    for model in PLACE.glob("storage/mlartifacts/**/model.json"):
        if json.loads(model.read_text(encoding="utf-8"))["trial"] == champion:
            return next(folder for folder in model.parents if (folder / "MLmodel").is_file())
    raise SystemExit(f"The champion is {champion}, and no model of it was logged; fix DOCUMENT.")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def _answers(target: Path) -> dict[str, Any]:
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(
        str(target / "model"), model_config={"base": str(target / "base")}
    )
    found = {}
    for task, texts in ROWS.items():
        rows = pd.DataFrame({"text": texts})
        answers = model.predict(rows, params={"task": task}).to_dict("records")
        found[task] = [{"text": text, **one} for text, one in zip(texts, answers, strict=True)]
    return found


def main() -> None:
    """Write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="such as tests/records/0.1.0; must not be there")
    write_record(parser.parse_args().folder)


if __name__ == "__main__":
    main()
