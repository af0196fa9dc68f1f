"""At which strength a quadratic penalty acts, and what `strength: auto` finds.

    .venv/bin/python benchmarks/strengths.py              # after `make demo` has fetched the base
    .venv/bin/python benchmarks/strengths.py --write      # and keeps it in RESULTS.md

LoRA of rank 16 on q, k and v of SmolLM2-135M, fp32, learns a first task and then a second under
each strength, from the same state. For `ewc` the curvature is that of the first task at its end;
for `laplace` (LaLoRA) that of the first task's examples before anything is learnt, and only the
second task is learnt. After the second task each row tells

- the norm of the penalty's gradient over that of the loss's, over the task's first examples;
- d' F d, the displacement in the metric of the curvature, over that of strength 0;
- nats a scored token of held-out examples of the second task (learning) and the first (keeping).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from results_page import ROOT, machine, table, write_section
from torch import Tensor

import curlora
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.data.items import Example, example_of
from orchestrator.data.preparation import prepare
from orchestrator.data.prepared import PreparedTask
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.row_batches import padded, scored_example
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment

BASE = ROOT / ".demo" / "SmolLM2-135M-Instruct"
DATA = ROOT / ".demo" / "data"
TASKS = ["opinion_strength", "movie_sentiment"]
BATCH = 4
RATE = 1e-3
FIRST_STEPS = 16
LENGTHS = (8, 32)
"""Steps of the second task."""
SETTINGS: tuple[dict[str, Any], ...] = (
    {"strength": 0.0},
    {"strength": 1.0},
    {"strength": 1e3},
    {"pull": 0.1},
    {"pull": 1.0},
    {"pull": 10.0},
)
KINDS: dict[str, dict[str, Any]] = {
    "ewc": {"max_examples": 32},
    "laplace": {"max_examples": 32, "source": "texts"},
}


@dataclass(frozen=True)
class Data:
    """Examples to learn and examples held out, of both tasks."""

    learnt: tuple[list[Example], list[Example]]
    held_out: tuple[list[Example], list[Example]]


def experiment(folder: Path, base: Path, data: Path) -> tuple[Experiment, Data]:
    """The settings, and both tasks' examples."""
    import yaml

    document = {
        "name": "strengths", "model": {"name": str(base)}, "tasks": TASKS,
        "method": {"adapter": {"kind": "lora"}},
        "training": {"batch_size": BATCH, "max_length": 64, "precision": "fp32",
                     "learning_rate": RATE},
        "data": {"train_examples": BATCH * max(LENGTHS), "validation_examples": 32,
                 "rung_examples": 2},
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
        "resources": {"executor": "local"}, "storage": str(folder),
    }  # fmt: skip
    path = folder / "strengths.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    loaded = load_experiment(path, data)
    tasks = prepare(loaded, load_tokenizer(loaded.experiment.model)).tasks
    first, second = (tasks[name] for name in TASKS)
    return loaded.experiment, Data(
        (list(first.train), list(second.train)), (_held_out(first), _held_out(second))
    )


def _held_out(task: PreparedTask) -> list[Example]:
    return [example_of(item) for item in task.validation]  # type: ignore[arg-type]


def learn(engine: PlainEngine, index: int, examples: Sequence[Example], steps: int) -> None:
    """One task, as an engine is told to learn it, without what follows its end."""
    engine.begin_task(index, steps, examples)
    for step in range(steps):
        first = step * BATCH % len(examples)
        engine.train_step(examples[first : first + BATCH], step)


def gradient_norms(engine: PlainEngine, examples: Sequence[Example]) -> tuple[float, float]:
    """The norms of the penalty's gradient and of the loss's, where the engine stands."""
    engine.scored.eval()
    adapter = list(engine.scored.adapter.values())
    rows = [scored_example(example) for example in examples]
    found = engine.scored(*padded(rows, torch.device("cpu")))
    loss = -found.sum() / sum(len(row.picks) for row in rows)
    of_loss = torch.autograd.grad(loss, adapter)
    penalty = engine.retention.penalty(engine.scored.adapter)
    of_penalty = torch.autograd.grad(penalty, adapter, allow_unused=True, materialize_grads=True)
    return _norm(of_penalty), _norm(of_loss)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


def displacement(engine: PlainEngine) -> float:
    """Twice the penalty of strength 1: the form d' F d."""
    state = engine.retention.state_dict()
    state["strength"] = torch.ones_like(state["strength"])
    return 2 * float(type(engine.retention).penalty_of(state, engine.scored.adapter).detach())


def measured(
    engine: PlainEngine, data: Data, kind: str, start: Mapping[str, Any], steps: int
) -> list[list[str]]:
    """A row for each strength."""
    rows: list[list[str]] = []
    untouched = 0.0
    for settings in SETTINGS:
        engine.retention = RETENTIONS[kind].build(KINDS[kind] | settings)
        engine.scored.retention = engine.retention
        kept = dict(start["retention"])
        if "strength" in settings:
            kept["strength"] = torch.tensor(settings["strength"], dtype=torch.float64)
        engine.retention.load_state_dict(kept)
        with torch.no_grad():
            for name, parameter in engine.scored.adapter.items():
                parameter.copy_(start["adapter"][name])
        learn(engine, 1, data.learnt[1][: BATCH * steps], steps)
        penalty, loss = gradient_norms(engine, data.learnt[1][:16])
        moved = displacement(engine)
        untouched = untouched or moved
        rows.append([
            kind,
            str(steps),
            " ".join(f"{name} {value:g}" for name, value in settings.items()),
            f"{engine.retention.strength:.3g}",
            f"{penalty / loss:.3g}",
            f"{moved / untouched:.3g}",
            f"{engine.held_out_loss(data.held_out[1]):.3f}",
            f"{engine.held_out_loss(data.held_out[0]):.3f}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def states(engine: PlainEngine) -> dict[str, Any]:
    """Where every strength starts from."""
    adapter = {name: p.detach().clone() for name, p in engine.scored.adapter.items()}
    return {"adapter": adapter, "retention": engine.retention.state_dict()}


def started(own: Experiment, data: Data, kind: str) -> tuple[PlainEngine, dict[str, Any]]:
    """An engine, and where the second task begins."""
    targets = ["q_proj", "k_proj", "v_proj"]
    model = curlora.attach(
        load_base(own.model, "fp32"), "lora", {"r": 16, "target_modules": targets}, seed=0
    )
    retention = RETENTIONS[kind].build(KINDS[kind])
    engine = PlainEngine(model, own.training, batch_tokens=512, retention=retention)
    if kind == "laplace":
        engine.begin_sequence(2, [data.learnt[0][:32]])
    else:
        engine.begin_sequence(2, [])
        learn(engine, 0, data.learnt[0], FIRST_STEPS)
        engine.end_task(0, data.learnt[0])
    return engine, states(engine)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", type=Path, default=BASE, help="a base model's folder")
    parser.add_argument("--data", type=Path, default=DATA, help="the demo's data folder")
    parser.add_argument("--steps", type=int, nargs="+", default=LENGTHS, help="of the second task")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--write", action="store_true", help="write the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    head = ["retention", "steps", "setting", "strength", "gradient of penalty over loss's, at end",
            "d'Fd, of strength 0's", "second task, nats", "first task, nats"]  # fmt: skip
    rows = [head]
    with tempfile.TemporaryDirectory() as name:
        own, data = experiment(Path(name), given.base, given.data)
        for kind in given.kinds:
            engine, start = started(own, data, kind)
            before = [engine.held_out_loss(held) for held in data.held_out]
            rows.append([kind, "0", "-", "-", "-", "0", f"{before[1]:.3f}", f"{before[0]:.3f}"])
            for steps in given.steps:
                rows += measured(engine, data, kind, start, steps)
    print(table(rows))
    if given.write:
        facts = machine()
        write_section(
            "strengths",
            f"`python benchmarks/strengths.py --write`, {facts['date']}, {facts['cpu']}, torch "
            f"{facts['torch']}: SmolLM2-135M, LoRA r 16 on q, k and v, fp32, batches of {BATCH} at "
            f"{RATE:g}, one seed.\n\n" + table(rows),
        )


if __name__ == "__main__":
    main()
