"""An export and the server, asked by others: PEFT and transformers alone, lm-evaluation-harness.

    python -m venv /tmp/lm && /tmp/lm/bin/pip install "lm_eval[api]" torch transformers peft
    .venv/bin/python benchmarks/outside_clients.py --lm-eval /tmp/lm/bin/lm_eval

One trial is trained on the demo's film reviews (`orchestrate run`, one process, fp32). Its test
rows are then scored five times: by `predict`; by lm-evaluation-harness through `orchestrate serve`
(`local-completions`, log-likelihoods of echoed prompts); by its `hf` model on the merged export,
and on the base with the LoRA export; and by PEFT in a process that cannot import this project.
Labels are compared row by row. Results are in `outside_clients.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
BASE = ROOT / ".demo" / "SmolLM2-135M-Instruct"
DATA = ROOT / ".demo" / "data" / "movie_sentiment" / "test.jsonl"
TASK = ROOT / "experiments" / "tasks" / "movie_sentiment.yaml"
LABELS = ["negative", "positive"]

EXPERIMENT = {
    "name": "outside", "model": {"name": str(BASE)}, "tasks": [str(TASK)],
    "method": {"adapter": {
        "kind": "curlora", "r": 16, "alpha": 1.0, "target_modules": ["q_proj", "k_proj", "v_proj"],
    }},
    "training": {
        "learning_rate": 2.0e-3, "epochs": 1, "batch_size": 4, "max_length": 64,
        "precision": "fp32",
    },
    "data": {"train_examples": 96, "validation_examples": 40, "test_examples": 100},
    "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
    "resources": {"executor": "local"},
}  # fmt: skip

ALONE = """
import importlib.abc, json, sys

class Nobody(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"curlora", "orchestrator"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Nobody())
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, folder, prompts, labels = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:5])
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, folder).eval()
first = [tokenizer(f"x {label}")["input_ids"][-1] for label in labels]
found = []
for prompt in prompts:
    with torch.no_grad():
        scores = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    found.append(torch.log_softmax(scores, -1)[first].tolist())
json.dump(found, sys.stdout)
"""


def rows(count: int) -> list[dict[str, str]]:
    """Test rows."""
    lines = DATA.read_text(encoding="utf-8").splitlines()[:count]
    return [{"text": one["text"], "label": one["label"]} for one in map(json.loads, lines)]


def orchestrate(*words: object) -> None:
    """Run a command of ours; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "orchestrator", *map(str, words)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def trained(folder: Path) -> Path:
    """The model folder of a trial that is trained now."""
    file = folder / "outside.yaml"
    file.write_text(yaml.safe_dump({**EXPERIMENT, "storage": str(folder / "runs")}), "utf-8")
    orchestrate("run", file)
    orchestrate("export", "outside-run/t001", "--as", "adapter", "--to", folder / "model",
                "--storage", folder / "runs")  # fmt: skip
    return folder / "model"


def harness_task(folder: Path, asked: list[dict[str, str]], prompt: str) -> None:
    """Our task as the harness has it: its rows in a file, our prompt and label words."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    task = {
        "task": "ours", "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": prompt.replace("{text}", "{{text}}"),
        "doc_to_choice": LABELS, "doc_to_target": "label", "target_delimiter": " ",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (folder / "ours.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def harness(program: Path, folder: Path, name: str, model: str, settings: str) -> dict[str, Any]:
    """What the harness finds: its accuracy, and the log-likelihoods of each row."""
    target = folder / name
    command = [program, "--model", model, "--model_args", settings, "--tasks", "ours",
               "--include_path", folder, "--output_path", target, "--log_samples",
               "--batch_size", "1", "--device", "cpu"]  # fmt: skip
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment = {**own, "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1",
                   "HF_DATASETS_CACHE": str(folder / "cache")}  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-3000:]}")
    result = json.loads(next(target.rglob("results_*.json")).read_text(encoding="utf-8"))
    samples = next(target.rglob("samples_ours_*.jsonl")).read_text(encoding="utf-8")
    by_row = sorted(map(json.loads, samples.splitlines()), key=lambda one: one["doc_id"])
    values = [[float(r[0]) for r in one["filtered_resps"]] for one in by_row]
    return {"accuracy": result["results"]["ours"]["acc,none"], "values": values}


def agreement(
    values: list[list[float]], ours: list[dict[str, float]], truth: list[str]
) -> dict[str, Any]:
    """Log-likelihoods of others against our probabilities, row by row."""
    import math

    labels, largest = 0, 0.0
    right = 0
    for scores, wanted, label in zip(values, ours, truth, strict=True):
        weights = [math.exp(score - max(scores)) for score in scores]
        chances = dict(zip(LABELS, (w / sum(weights) for w in weights), strict=True))
        largest = max(largest, *(abs(chances[k] - v) for k, v in wanted.items()))
        answer = max(chances, key=lambda k: chances[k])
        labels += answer == max(wanted, key=lambda k: wanted[k])
        right += answer == label
    return {"accuracy": right / len(values), "same_labels": labels, "rows": len(values),
            "largest_difference_of_probabilities": largest}  # fmt: skip


def main() -> None:
    """Train, export, serve, ask, print and write."""
    from benchmarks.serving import Server
    from orchestrator import load

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--lm-eval", type=Path, required=True)
    options.add_argument("--rows", type=int, default=100)
    options.add_argument("--model", type=Path, help="a model folder, instead of training one")
    options.add_argument("--to", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = options.parse_args()
    asked = rows(chosen.rows)
    truth = [row["label"] for row in asked]
    prompt = yaml.safe_load(TASK.read_text(encoding="utf-8"))["prompt"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = chosen.model or trained(folder)
        for form in ("lora", "merged", "adapter"):
            orchestrate("export", model, "--as", form, "--to", folder / form)
        predictor = load(str(folder / "adapter"))
        answers = predictor.predict("movie_sentiment", [{"text": row["text"]} for row in asked])
        ours = [answer.probabilities for answer in answers]
        right = sum(a.label == label for a, label in zip(answers, truth, strict=True))
        found: dict[str, Any] = {"predict": {"accuracy": right / len(asked), "rows": len(asked)}}
        print(json.dumps(found))
        del predictor
        harness_task(folder, asked, prompt)
        server = Server({"ours": folder / "adapter"})
        try:
            settings = (
                f"model=adapter,base_url={server.address}/completions,tokenizer={BASE},"
                "tokenizer_backend=huggingface,num_concurrent=4,max_length=2048"
            )
            asked_of = {"served": ("local-completions", settings)}
            asked_of |= {
                "merged": ("hf", f"pretrained={folder / 'merged'},dtype=float32"),
                "lora": ("hf", f"pretrained={BASE},peft={folder / 'lora'},dtype=float32"),
            }
            for name, (kind, given) in asked_of.items():
                told = harness(chosen.lm_eval, folder, name, kind, given)
                found[f"lm_eval_{name}"] = agreement(told["values"], ours, truth) | {
                    "its_own_accuracy": told["accuracy"]
                }
                print(name, json.dumps(found[f"lm_eval_{name}"]), flush=True)
        finally:
            server.end()
        prompts = [prompt.replace("{text}", row["text"]) for row in asked]
        alone = subprocess.run(
            [sys.executable, "-c", ALONE, str(BASE), str(folder / "lora"), json.dumps(prompts),
             json.dumps(LABELS)],
            capture_output=True, text=True, check=True, cwd=folder,
        )  # fmt: skip
        found["peft_alone"] = agreement(json.loads(alone.stdout), ours, truth)
    chosen.to.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
