"""What scoring costs: a row for each continuation beside a prompt that is read once for all.

    python benchmarks/scoring.py tokens --data DIR [--write]  # counts; needs a tokenizer only
    python benchmarks/scoring.py time --data DIR [--write]    # measures with the demo's base

Tokens are counted as the engines cut them into batches, so they are the same on every machine.
Times are taken in turns, one way after the other, in fp32. `DIR` holds a folder for each task with
`<split>.jsonl.gz`, as `orchestrate --data-root` reads it; without it tasks come from the hub. With
`--write` the tables stand in RESULTS.md and the numbers in `scoring.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from results_page import ROOT, machine, table, write_section

from orchestrator.base.loading import load_base, load_tokenizer
from orchestrator.data.items import Question
from orchestrator.data.model_inputs import Scored, apart
from orchestrator.data.task_preparation import prepare_task
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.row_batches import USEFUL, scoring_batches
from orchestrator.loop.scoring import rows_of
from orchestrator.spec.sections import (
    DataLimits,
    ModelSpec,
    TrainingSpec,
    default_batch_tokens,
)
from orchestrator.spec.task_files import at_data_root, load_task

BASE = ROOT / ".demo" / "SmolLM2-135M-Instruct"
RECORD = ROOT / "benchmarks" / "scoring.json"
COUNTED = (
    "arc_easy", "hellaswag", "arc_challenge", "commonsenseqa", "logiqa", "mmlu", "openbookqa",
    "piqa", "winogrande",
)  # fmt: skip
TIMED = {"arc_easy": 16, "hellaswag": 6}
"""Questions of each task."""
ROUNDS = 3
LENGTH = 512
BARS = {"arc_easy": 0.45, "hellaswag": 0.45}
"""Tokens over those of separate rows, at most."""
DEVICES = {"CPU": (False, False), "pool on CPU": (False, True), "GPU": (True, False)}
"""Where batches differ: whether on a GPU, whether in a pack."""


@dataclass(frozen=True)
class Cost:
    """What is computed to score some questions."""

    rows: int
    batches: int
    tokens: int
    padded: int
    """Tokens with padding."""

    @property
    def useful(self) -> float:
        """The share of computed tokens that are no padding."""
        return self.tokens / self.padded


def cost_of(rows: Sequence[Scored], batch_tokens: int, device: torch.device) -> Cost:
    """Count what an engine computes.

    Args:
        rows: What is scored.
        batch_tokens: Padded tokens of a batch.
        device: By which batches are cut; nothing is computed.

    Returns:
        The counts.
    """
    batches = scoring_batches(rows, batch_tokens, device)
    longest = [max(len(rows[i].tokens) for i in batch) for batch in batches]
    padded = sum(len(batch) * most for batch, most in zip(batches, longest, strict=True))
    return Cost(len(rows), len(batches), sum(len(row.tokens) for row in rows), padded)


def questions_of(name: str, tokenizer: Any, data: Path | None, count: int) -> list[Question]:
    """The first validation questions of a committed task, in the order in which they are scored."""
    path = ROOT / "experiments" / "tasks" / f"{name}.yaml"
    spec = at_data_root(load_task(path), data)
    limits = DataLimits(validation_examples=count, test_examples=1)
    task = prepare_task(spec, tokenizer, limits, max_length=LENGTH, learnt=False, source=False)
    return [item for item in task.validation if isinstance(item, Question)]


def ways_of(questions: Sequence[Question]) -> dict[str, list[Scored]]:
    """The rows of some questions, by how they are made."""
    joint = rows_of(questions)
    return {"separate": [part for row in joint for part in apart(row)], "joint": joint}


def count_tokens(names: Sequence[str], tokenizer: Any, data: Path | None, count: int) -> list[Any]:
    """Count what scoring each of some tasks costs.

    Args:
        names: Committed tasks.
        tokenizer: Of the demo's base.
        data: Where tasks lie; None: the hub.
        count: Questions of each, at most.

    Returns:
        For each task its name, the number of questions, and by way and device the `Cost`.
    """
    found = []
    for name in names:
        questions = questions_of(name, tokenizer, data, count)
        ways = ways_of(questions)
        costs = {
            way: {
                place: asdict(
                    cost_of(
                        rows,
                        default_batch_tokens(on_gpu=on_gpu, packed=packed),
                        torch.device("cuda" if on_gpu else "cpu"),
                    )
                )
                for place, (on_gpu, packed) in DEVICES.items()
            }
            for way, rows in ways.items()
        }
        prompts = sum(len(question.prompt) for question in questions)
        found.append({
            "task": name, "questions": len(questions),
            "prompt": prompts / len(questions),
            "continuations": sum(len(c) for q in questions for c in q.continuations)
            / len(questions),
            **costs,
        })  # fmt: skip
    return found


def tokens_table(counted: Sequence[Any]) -> str:
    """The counts in Markdown."""
    places = list(DEVICES)
    head = (
        "task", "questions", "tokens of prompt", "and of all continuations", "separate rows",
        "joint", "ratio", "bar", *(f"ratio padded, {p}" for p in places),
        *(f"useful, {p}" for p in places),
    )  # fmt: skip
    lines = []
    for one in counted:
        costs = {w: {p: Cost(**one[w][p]) for p in places} for w in ("separate", "joint")}
        before, now = costs["separate"], costs["joint"]
        tokens = before[places[0]].tokens, now[places[0]].tokens
        bar = BARS.get(one["task"])
        lines.append((
            one["task"], f"{one['questions']:,}", f"{one['prompt']:.1f}",
            f"{one['continuations']:.1f}", f"{tokens[0]:,}", f"{tokens[1]:,}",
            f"{tokens[1] / tokens[0]:.3f}", "-" if bar is None else f"{bar:.2f}",
            *(f"{now[p].padded / before[p].padded:.3f}" for p in places),
            *(f"{now[p].useful:.3f}" for p in places),
        ))  # fmt: skip
    return table([head, *lines])


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and core seconds of some work."""
    wall, core = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - core


def measure_times(folder: Path, tokenizer: Any, data: Path | None, rounds: int) -> list[Any]:
    """Score some questions both ways, in turns.

    Args:
        folder: The demo's base.
        tokenizer: Its tokenizer.
        data: Where tasks lie; None: the hub.
        rounds: How often each way.

    Returns:
        For each task its name, how many questions, and by way the wall and core seconds of every
        round; the largest difference of a log-probability, in nats; and what the first pass costs
        more, in which it is tried whether the base takes joint rows.
    """
    found = []
    base = load_base(ModelSpec(name=str(folder)), "fp32")
    for name, count in TIMED.items():
        ways = ways_of(questions_of(name, tokenizer, data, count))
        engine = PlainEngine(base, TrainingSpec(precision="fp32"))

        def read(rows: Sequence[Scored], engine: PlainEngine = engine) -> list[float]:
            return [value for row in engine.log_probabilities(rows) for value in row]

        one = [row for row in ways["joint"] if row.branches][:1]
        first, again = (seconds(lambda r=one: read(r)) for _ in range(2))
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        values: dict[str, list[float]] = {}
        for _ in range(rounds):
            for way, rows in ways.items():
                taken[way].append(seconds(lambda r=rows, w=way, v=values: v.update({w: read(r)})))
        apart_by = max(abs(a - b) for a, b in zip(*values.values(), strict=True))
        found.append({
            "task": name, "questions": count, "seconds": taken, "largest_difference": apart_by,
            "try_core_seconds": first[1] - again[1],
            "tokens": {way: sum(len(r.tokens) for r in rows) for way, rows in ways.items()},
        })  # fmt: skip
    return found


def times_table(timed: Sequence[Any]) -> str:
    """The times in Markdown: medians over the rounds, and of the ratios of neighbours."""
    head = (
        "task", "questions", "separate rows, wall s", "joint, wall s", "ratio (lowest-highest)",
        "ratio of core seconds", "ratio of tokens", "largest difference, nats", "first try, core s",
    )  # fmt: skip
    lines = []
    for one in timed:
        before, now = one["seconds"]["separate"], one["seconds"]["joint"]
        walls, cores = ([b[i] / a[i] for a, b in zip(before, now, strict=True)] for i in range(2))
        lines.append((
            one["task"], str(one["questions"]), f"{statistics.median(a for a, _ in before):.2f}",
            f"{statistics.median(a for a, _ in now):.2f}",
            f"{statistics.median(walls):.3f} ({min(walls):.3f}-{max(walls):.3f})",
            f"{statistics.median(cores):.3f}",
            f"{one['tokens']['joint'] / one['tokens']['separate']:.3f}",
            f"{one['largest_difference']:.1e}", f"{one['try_core_seconds']:.2f}",
        ))  # fmt: skip
    return table([head, *lines])


def keep(part: str, record: Any) -> None:
    """Put a part of the record into its file; the others stay."""
    whole = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    whole[part] = record
    RECORD.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Count or measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=("tokens", "time"))
    parser.add_argument("--data", type=Path, help="folder of the tasks' data; else the hub")
    parser.add_argument("--base", type=Path, default=BASE, help="folder of SmolLM2-135M")
    parser.add_argument("--questions", type=int, default=1000, help="of each task, at most")
    parser.add_argument("--write", action="store_true", help="keep it in RESULTS.md and JSON")
    given = parser.parse_args()
    tokenizer = load_tokenizer(ModelSpec(name=str(given.base)))
    where = machine(("torch", "transformers"))
    if given.part == "tokens":
        found = count_tokens(COUNTED, tokenizer, given.data, given.questions)
        shown = tokens_table(found)
        said = (
            f"`python benchmarks/scoring.py tokens --write`, {where['date']}: counted with the "
            f"tokenizer of SmolLM2, at most {given.questions:,} validation questions a task, so "
            "the same on every machine. *Separate rows* have prompt and continuation each, *joint* "
            "rows the prompt once. *Useful* is the share of computed tokens that are no padding; "
            f"its bar is {USEFUL}."
        )
    else:
        found = measure_times(given.base, tokenizer, given.data, ROUNDS)
        shown = times_table(found)
        load = os.getloadavg()[0]
        said = (
            f"`python benchmarks/scoring.py time --write`, {where['date']}, {where['cores']} "
            f"cores of {where['cpu']}, threads: {torch.get_num_threads()}, "
            f"{torch.backends.cpu.get_cpu_capability()}, load average {load:.1f}; torch "
            f"{where['torch']}, transformers {where['transformers']}. SmolLM2-135M in fp32, plain "
            f"engine, {ROUNDS} rounds in turns. The *first try* is what finding out costs, once "
            "for each loaded base, whether it takes joint rows."
        )
    text = f"{said}\n\n{shown}"
    print(text)
    if given.write:
        write_section(f"scoring {given.part}", text)
        keep(given.part, {"machine": where, "found": found})


if __name__ == "__main__":
    main()
