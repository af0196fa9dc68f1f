"""How far apart a trial ends in 16 bits when it shares its passes, and which answers change.

    .venv/bin/python benchmarks/packed_bf16.py            # after `make demo` has fetched the base
    .venv/bin/python benchmarks/packed_bf16.py --write

In bf16 the base's matrix products depend on how many rows they have, so a packed trial cannot give
the bits of a solo one. The measure of what that matters is another solo run in which every pass
carries one more, longer row that nothing is learnt from: the same trial, in another padded shape.

Each of two trials (CURLoRA and LoRA, two tasks of 48 examples) is run four times: solo, solo in
that other shape, in a pack with three others, and in a pack with seven. The margin of a scored
example is its right answer's log-likelihood minus the best other's. The *noise* of a trial is the
largest difference of a margin between the two solo runs. The promise that is checked: an answer
differs between solo and packed only where the solo margin is within the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.engines import base as base_module
from orchestrator.engines import plain as plain_module

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from results_page import ROOT, machine, write_section

import curlora
from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.data.model_inputs import Scored
from orchestrator.data.preparation import prepare
from orchestrator.data.prepared import PreparedData
from orchestrator.engines.row_batches import padded
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.loop import scoring
from orchestrator.loop.answer import run
from orchestrator.loop.learn import learn_sequence
from orchestrator.loop.task_sequence import Start, task_sequence
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment

BASE = ROOT / ".demo" / "SmolLM2-135M-Instruct"
TASKS = ["opinion_strength", "movie_sentiment"]
TARGETS = ["q_proj", "k_proj", "v_proj"]
TRIALS = {
    "curlora": {"kind": "curlora", "r": 16, "alpha": 4.0},
    "lora": {"kind": "lora", "r": 8, "alpha": 16.0},
}
RATES = {"curlora": 2e-3, "lora": 1e-3}
LONGER = 24
"""Tokens of the row that is added, beyond the longest of a pass."""


def experiment(folder: Path) -> tuple[Experiment, PreparedData]:
    """The experiment that both trials come from, and its data."""
    import yaml

    document = {
        "name": "bf16", "model": {"name": str(BASE)}, "tasks": TASKS,
        "method": {"adapter": {"kind": "lora", "r": 8, "target_modules": TARGETS}},
        "training": {"batch_size": 4, "max_length": 64, "precision": "bf16"},
        "data": {"train_examples": 48, "validation_examples": 100, "rung_examples": 2},
        "objectives": {"gain": "max"}, "champion": {"maximize": "gain", "subject_to": {}},
        "resources": {"executor": "local"}, "storage": str(folder),
    }  # fmt: skip
    path = folder / "bf16.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    loaded = load_experiment(path)
    return loaded.experiment, prepare(loaded, load_tokenizer(loaded.experiment.model))


def trial(whole: Experiment, name: str, seed: int = 0) -> Experiment:
    """One trial's experiment."""
    adapter = {**TRIALS[name], "target_modules": TARGETS}
    return whole.with_overrides(
        {
            "method.adapter": adapter,
            "training.learning_rate": RATES[name],
            "training.seed": seed,
        }
    )


class Margins:
    """Remembers the margin of every question that is scored while it listens."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.found: list[list[float]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Meanwhile every score leaves its margins here, one list for each score."""
        plain = scoring.question_log_likelihoods

        def recorded(questions: Sequence[Any], answers: Any) -> list[list[float]]:
            values = plain(questions, answers)
            self.found.append([
                own[q.answer] - max(v for i, v in enumerate(own) if i != q.answer)
                for q, own in zip(questions, values, strict=True)
            ])  # fmt: skip
            return values

        scoring.question_log_likelihoods = recorded
        try:
            yield
        finally:
            scoring.question_log_likelihoods = plain

    def last_row(self) -> list[float]:
        """The margins of all examples of all tasks, after the last task."""
        return [margin for margins in self.found[-len(TASKS) :] for margin in margins]


@contextmanager
def longer_passes(wanted: bool) -> Iterator[None]:
    """Meanwhile every pass of a solo engine has one more, longer row that counts nothing."""

    def wider(rows: Sequence[Scored], device: torch.device) -> Any:
        length = max(len(row.tokens) for row in rows) + LONGER
        return padded([*rows, Scored(tuple(range(1, length + 1)), ())], device)

    modules: list[Any] = [base_module, plain_module] if wanted else []
    for module in modules:
        module.padded = wider
    try:
        yield
    finally:
        for module in modules:
            module.padded = padded


def solo(own: Experiment, data: PreparedData, *, longer: bool) -> list[float]:
    """A trial by itself: its margins at the end."""
    base = load_base(own.model, "bf16")
    adapter = own.method.adapter
    model = curlora.attach(base, adapter.kind, adapter_options(adapter), seed=own.training.seed)
    answers = plain_module.PlainEngine(model, own.training, batch_tokens=512)
    sequence = task_sequence(own, data)
    matrix = AccuracyMatrix.empty([task.name for task in sequence.tasks])
    margins = Margins()
    with margins.listening(), longer_passes(longer):
        run(
            learn_sequence(sequence, answers.retention, matrix, Start()), answers,
            sequence=sequence, matrix=matrix, start=Start(), on_report=lambda *_: None,
            on_progress=lambda _: None,
        )  # fmt: skip
    return margins.last_row()


def packed(whole: Experiment, name: str, others: int, data: PreparedData) -> list[float]:
    """A trial in a pack with others that begin two ticks later: its margins at the end."""
    pack = PackedTrials(load_base(whole.model, "bf16"), TARGETS, capacity=8, batch_tokens=512)
    margins = Margins()
    own: list[list[float]] = []

    def join(label: str, one: Experiment) -> None:
        pack.join(label, one, task_sequence(one, data), lambda *_: None)

    join("own", trial(whole, name))
    pack.tick()
    pack.tick()
    for number in range(others):
        join(f"other {number}", trial(whole, list(TRIALS)[number % 2], seed=number + 1))
    plain = pack._scoring.answer

    def answer(slot: Any, values: Any) -> Any:
        before = len(margins.found)
        result = plain(slot, values)
        if slot.name == "own":
            own.extend(margins.found[before:])
        return result

    pack._scoring.answer = answer  # pyright: ignore[reportAttributeAccessIssue]
    with margins.listening():
        while "own" in pack.names:
            for end in pack.tick():
                if end.matrix is None:
                    raise RuntimeError(f"{end.name}: {end.reason}")
    margins.found = own
    return margins.last_row()


def compare(before: Sequence[float], after: Sequence[float], noise: float) -> dict[str, Any]:
    """How far margins are apart, and which answers changed."""
    changed = [
        (a, b) for a, b in zip(before, after, strict=True) if (a > 0) != (b > 0)
    ]  # fmt: skip
    differences = sorted(abs(a - b) for a, b in zip(before, after, strict=True))
    return {
        "largest": differences[-1],
        "median": differences[len(differences) // 2],
        "changed": len(changed),
        "beyond_noise": sum(abs(a) > noise for a, _ in changed),
    }


def main() -> None:
    """Measure and print; the exit code says whether the promise held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        "| trial | compared with solo | largest difference of a margin, nats | median "
        "| answers that differ, of 200 | of these, solo margin beyond the noise |",
        "|---|---|---|---|---|---|",
    ]
    broken = 0
    with tempfile.TemporaryDirectory() as name:
        whole, data = experiment(Path(name))
        for kind in TRIALS:
            own = trial(whole, kind)
            first, second = (solo(own, data, longer=longer) for longer in (False, True))
            noise = max(abs(a - b) for a, b in zip(first, second, strict=True))
            found = {"solo in another padded shape (the noise)": compare(first, second, noise)}
            for others in (3, 7):
                after = packed(whole, kind, others, data)
                found[f"packed with {others} others"] = compare(first, after, noise)
            for label, line in found.items():
                broken += line["beyond_noise"]
                rows.append(
                    f"| {kind} | {label} | {line['largest']:.3f} | {line['median']:.4f} "
                    f"| {line['changed']} | {line['beyond_noise']} |"
                )
                print(json.dumps({"trial": kind, "with": label, **line}), flush=True)
    print("\n".join(rows))
    if given.write:
        facts = machine()
        write_section(
            "packed bf16",
            f"`python benchmarks/packed_bf16.py --write`, {facts['date']}, {facts['cpu']}, torch "
            f"{facts['torch']}: two tasks of 48 examples, 100 scored each, SmolLM2-135M.\n\n"
            + "\n".join(rows),
        )
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
