"""How much of what the model computes on the demo's data is not padding, and where logits are made.

    .venv/bin/python benchmarks/useful_tokens.py           # measures and prints
    .venv/bin/python benchmarks/useful_tokens.py --write   # and keeps it in RESULTS.md

Tokens are counted in the batches that the engine forms, training batches of every worker and
evaluation batches, and in the passes of a member of the pool with eight trials. The bars: at least
0.9 of the tokens are no padding, and the output layer sees exactly the scored positions. Needs the
demo's model and data (`make demo` fetches them).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from orchestrator.executors.pool import shared_passes

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from results_page import ROOT, machine, table, write_section
from transformers import LlamaConfig, LlamaForCausalLM

from orchestrator.base.loading import load_tokenizer
from orchestrator.data.items import Question, Window
from orchestrator.data.model_inputs import Scored, epoch_batches, scored_rows
from orchestrator.data.preparation import prepare
from orchestrator.data.prepared import PreparedData, PreparedTask
from orchestrator.engines.micro_batches import sharded_batch
from orchestrator.engines.row_batches import padded, scoring_batches
from orchestrator.engines.scored_model import ScoredModel
from orchestrator.engines.workers import Workers
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.spec.load import LoadedExperiment, load_experiment
from orchestrator.spec.sections import default_batch_tokens

EXPERIMENT = ROOT / "experiments" / "demo.yaml"
SECTION = "useful tokens"
SEEDS = range(5)
COLUMNS = ("", "batches", "tokens", "with padding", "useful")
Count = tuple[int, int, int]
"""Batches, tokens, tokens with padding."""
Counts = tuple[Count, Count]


def padding_of(batches: Iterable[tuple[Sequence[Scored], bool]]) -> Count:
    """Count batches, tokens and tokens with padding.

    Args:
        batches: Rows that are computed together, and whether they count for anything.

    Returns:
        The three counts.
    """
    number = tokens = computed = 0
    for rows, counts in batches:
        number += 1
        tokens += sum(len(row.tokens) for row in rows) if counts else 0
        computed += len(rows) * max(len(row.tokens) for row in rows)
    return number, tokens, computed


def training_batches(
    task: PreparedTask, batch_size: int, workers: int
) -> Iterator[tuple[Sequence[Scored], bool]]:
    """What every worker computes in an epoch, for several seeds."""
    for seed in SEEDS:
        for batch in epoch_batches(task.train, batch_size, seed=seed, epochs=1):
            for rank in range(workers):
                for micro in sharded_batch(batch, [], Workers(rank, workers), 1).micros:
                    yield micro.rows, micro.counts


def evaluation_batches(
    task: PreparedTask, batch_tokens: int
) -> Iterator[tuple[Sequence[Scored], bool]]:
    """What is computed to score a task's validation and test items."""
    for items in (task.validation, task.test):
        rows = [r for i in items if isinstance(i, Question | Window) for r in scored_rows(i)]
        for batch in scoring_batches(rows, batch_tokens, torch.device("cpu")):
            yield [rows[index] for index in batch], True


def small_model(vocabulary: int) -> LlamaForCausalLM:
    """A Llama of one narrow layer, with a real output layer."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1,
        )
    )  # fmt: skip


def logit_rows(
    tasks: Iterable[PreparedTask], vocabulary: int, batch_tokens: int
) -> tuple[int, int]:
    """Positions that the output layer sees, and positions that are scored, in real batches.

    Args:
        tasks: Whose first training batch and first evaluation batch are computed.
        vocabulary: Number of token ids.
        batch_tokens: Padded tokens of an evaluation batch.

    Returns:
        The two counts, from a small model with a real output layer.
    """
    model = small_model(vocabulary)
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape[0])
    )
    scored, wanted = ScoredModel(model), 0
    for task in tasks:
        batches = [next(evaluation_batches(task, batch_tokens))[0]]
        if task.train:
            batches.append(next(training_batches(task, 4, 1))[0])
        for training, rows in enumerate(batches):
            scored.train(bool(training))
            wanted += sum(len(row.picks) for row in rows)
            with torch.set_grad_enabled(bool(training)):
                scored(*padded(rows, torch.device("cpu")), rows[0].head)
    return sum(seen), wanted


def packed_passes(
    loaded: LoadedExperiment, data: PreparedData, vocabulary: int, seeds: int, apart: int
) -> Counts:
    """What eight trials compute in one pack, on a small model.

    Args:
        loaded: The experiment.
        data: Its data.
        vocabulary: Number of token ids.
        seeds: How many different orders of the training examples they have.
        apart: Ticks after which the next of them begins.

    Returns:
        Of the passes in which something is learnt, and of the others.

    Raises:
        RuntimeError: A trial has failed.
    """
    experiment, slots = loaded.experiment, 8
    base = small_model(vocabulary).eval().requires_grad_(False)
    tokens = default_batch_tokens(on_gpu=False, packed=True)
    pack = PackedTrials(base, ["q_proj"], capacity=slots, batch_tokens=tokens)
    learning: list[tuple[Sequence[Scored], bool]] = []
    reading: list[tuple[Sequence[Scored], bool]] = []

    def counted(rows: Sequence[Scored], device: torch.device) -> Any:
        (learning if torch.is_grad_enabled() else reading).append((rows, True))
        return padded(rows, device)

    shared_passes.padded = counted
    method = {"method.adapter.kind": "curlora", "method.adapter.r": 4,
              "method.adapter.target_modules": ["q_proj"]}  # fmt: skip
    number = 0
    while number < slots or pack.names:
        for _ in range(slots if not apart else 1):
            if number < slots:
                trial = experiment.with_overrides({**method, "training.seed": number % seeds})
                pack.join(f"t{number}", trial, task_sequence(trial, data), lambda *_: None)
                number += 1
        for _ in range(max(1, apart)):
            for end in pack.tick() if pack.names else ():
                if end.matrix is None:
                    raise RuntimeError(f"{end.name}: {end.reason}")
    shared_passes.padded = padded
    return padding_of(learning), padding_of(reading)


def lines_of(loaded: LoadedExperiment, data: PreparedData, vocabulary: int) -> list[list[str]]:
    """The table: training by workers and batch size, evaluation by device, then all of each."""
    batch_size, learnt = loaded.experiment.training.batch_size, loaded.experiment.tasks
    found: list[list[str]] = []

    def add(name: str, counts: Sequence[Count]) -> None:
        number, tokens, computed = (sum(values) for values in zip(*counts, strict=True))
        share = f"{tokens / computed:.3f}"
        found.append([name, f"{number:,}", f"{tokens:,}", f"{computed:,}", share])

    for size, workers in ((batch_size, 1), (batch_size, 2), (8, 1), (16, 1), (32, 1)):
        counts = [padding_of(training_batches(data.tasks[n], size, workers)) for n in learnt]
        kind = f"training, batches of {size} on {workers} worker{'s' * (workers > 1)}"
        if (size, workers) == (batch_size, 1):
            for name, count in zip(learnt, counts, strict=True):
                add(f"{kind}: {name}", [count])
        add(f"{kind}: all tasks", counts)
    for device in ("CPU", "GPU"):
        budget = default_batch_tokens(on_gpu=device == "GPU")
        counts = [padding_of(evaluation_batches(task, budget)) for task in data.tasks.values()]
        kind = f"evaluation, {budget} tokens ({device})"
        if device == "CPU":
            for name, count in zip(data.tasks, counts, strict=True):
                add(f"{kind}: {name}", [count])
        add(f"{kind}: all", counts)
    for seeds, apart, how in (
        (1, 0, "in step, in one order"),
        (8, 0, "in step, each in its own order"),
        (8, 3, "begun three ticks apart, each in its own order"),
    ):
        counted = packed_passes(loaded, data, vocabulary, seeds, apart)
        for what, count in zip(("training", "evaluation"), counted, strict=True):
            add(f"{what} in a pack of eight, {how}", [count])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="keep the table in RESULTS.md")
    given = parser.parse_args()
    loaded = load_experiment(EXPERIMENT, ROOT / ".demo" / "data")
    tokenizer = load_tokenizer(loaded.experiment.model)
    data = prepare(loaded, tokenizer)
    rows = lines_of(loaded, data, len(tokenizer))
    seen, wanted = logit_rows(
        data.tasks.values(), len(tokenizer), default_batch_tokens(on_gpu=False)
    )
    text = (
        f"`python benchmarks/useful_tokens.py --write`, {machine()['date']}: "
        "counted, so the same on every machine. *Useful* is the share of computed tokens that are "
        f"no padding, over {len(SEEDS)} seeds of the training order; the bar is 0.9. In one "
        f"training and one evaluation batch of each task the output layer saw {seen:,} positions, "
        f"of which {wanted:,} were scored.\n\n{table([COLUMNS, *rows])}"
    )
    print(text)
    if given.write:
        write_section(SECTION, text)


if __name__ == "__main__":
    main()
