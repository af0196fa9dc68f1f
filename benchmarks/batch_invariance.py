"""What batch-invariant passes cost: a pool's ticks with `training.batch_invariant` and without it.

    .venv/bin/python benchmarks/batch_invariance.py [--threads 2] [--write]

Slots of one kind of adapter, or of all, on all linear layers of SmolLM2-135M in fp32. *Learned* is
a tick of the pool (forward, backward, a step of each slot), *scored* a pass without gradients over
the same rows; rows differ in length. The two ways take turns, each on a base of its own, and a
ratio is the median of neighbours' ratios. Times are seconds of the process on its cores, divided by
the threads. With `--write` the table stands in RESULTS.md and the numbers in
`batch_invariance.json`.

`--bits` counts instead how often a row's log-probability changes with the rows beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from results_page import ROOT, machine, table, write_section

from orchestrator.base.loading import load_base
from orchestrator.data.model_inputs import Scored
from orchestrator.executors.pool.shared_passes import SharedPasses
from orchestrator.spec.sections import ModelSpec

BASE = ROOT / ".demo" / "SmolLM2-135M-Instruct"
RECORD = ROOT / "benchmarks" / "batch_invariance.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "curlora": {"r": 16},
    "lora": {"r": 16, "alpha": 16.0},
    "dora": {"r": 16, "alpha": 16.0},
}
ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """Slots of a pack and the rows of each."""

    kinds: tuple[str, ...]
    slots: int
    rows: int
    shortest: int
    longest: int
    """Tokens of a row."""

    @property
    def words(self) -> str:
        """The case in a table."""
        return (
            f"{self.slots} x {'/'.join(self.kinds)}, {self.rows} rows each of "
            f"{self.shortest}-{self.longest} tokens"
        )


CASES = (
    Case(("curlora",), 8, 4, 24, 48),
    Case(("lora",), 8, 4, 24, 48),
    Case(("dora",), 4, 4, 24, 48),
    Case(("curlora", "lora"), 4, 4, 24, 48),
    Case(("curlora",), 1, 8, 24, 48),
    Case(("lora",), 2, 2, 128, 256),
)


@dataclass(frozen=True)
class Cost:
    """Of a case: time with invariant passes over time without."""

    case: str
    learned: float
    scored: float
    learned_s: float
    """Of a tick today."""
    scored_s: float


def rows_of(case: Case, seed: int = 0) -> list[tuple[int, Scored]]:
    """Random rows: of each slot the same ones, as trials of a sweep have them."""
    generator = random.Random(seed)
    own: list[Scored] = []
    for _ in range(case.rows):
        length = generator.randint(case.shortest, case.longest)
        tokens = tuple(generator.randrange(49152) for _ in range(length))
        own.append(Scored(tokens, ((length - 1, generator.randrange(49152)),)))
    return [(slot, row) for slot in range(case.slots) for row in own]


def pack_of(base: Any, case: Case, *, invariant: bool) -> SharedPasses:
    """A pack with the slots of a case."""
    passes = SharedPasses(base, "all-linear", capacity=case.slots, invariant=invariant)
    for slot in range(case.slots):
        kind = case.kinds[slot % len(case.kinds)]
        passes.pack.join(slot, kind, SETTINGS[kind], seed=0)
    return passes


def seconds(work: Callable[[], object]) -> float:
    """Time some work."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / torch.get_num_threads()


def cost_of(bases: tuple[Any, Any], case: Case) -> Cost:
    """Measure a case.

    Args:
        bases: The same base twice: for today's passes, and for invariant ones.
        case: What is measured.

    Returns:
        Its cost.
    """
    rows = rows_of(case)
    over = dict.fromkeys(range(case.slots), case.rows)
    ways = [
        pack_of(base, case, invariant=invariant)
        for base, invariant in zip(bases, (False, True), strict=True)
    ]

    def learn(passes: SharedPasses) -> None:
        passes.learn(rows, over, counts=True)
        passes.pack.step(dict.fromkeys(over, 1.0e-4), max_norm=1.0)

    def score(passes: SharedPasses) -> None:
        passes.score([row for _, row in rows], [slot for slot, _ in rows])

    found: list[float] = []
    base_times: list[float] = []
    for work in (learn, score):
        for passes in ways:
            work(passes)
        times = [[seconds(lambda p=p, w=work: w(p)) for p in ways] for _ in range(ROUNDS)]
        found.append(statistics.median(b / a for a, b in times))
        base_times.append(statistics.median(a for a, _ in times))
    for passes in ways:
        passes.pack.unhook()
    return Cost(case.words, *found, *base_times)


def changed_bits(base: Any, *, invariant: bool, rounds: int = 20) -> tuple[int, int]:
    """How many rows are scored otherwise in company than alone.

    Args:
        base: Without a pack.
        invariant: Whether passes are.
        rounds: Random companies.

    Returns:
        So many, and of how many.
    """
    case = Case(("lora",), 3, 4, 5, 60)
    passes = pack_of(base, case, invariant=invariant)
    generator = random.Random(1)
    changed = total = 0
    for number in range(rounds):
        rows = rows_of(case, number)
        alone = {i: passes.score([row], [slot])[0] for i, (slot, row) in enumerate(rows)}
        order = generator.sample(range(len(rows)), generator.randint(2, len(rows)))
        order.sort(key=lambda i: rows[i][0])
        together = passes.score([rows[i][1] for i in order], [rows[i][0] for i in order])
        changed += sum(alone[i] != found for i, found in zip(order, together, strict=True))
        total += len(order)
    passes.pack.unhook()
    return changed, total


def keep(costs: list[Cost], *, threads: int, layers: int) -> None:
    """Write the numbers and the page's table."""
    where = machine(("torch", "transformers"))
    record = {"machine": where, "threads": threads, "layers": layers, "rounds": ROUNDS}
    record |= {"costs": [asdict(cost) for cost in costs]}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    cells = [[c.case, f"{c.learned:.2f}", f"{c.scored:.2f}"] for c in costs]
    said = (
        f"`python benchmarks/batch_invariance.py --threads {threads} --layers {layers} --write`, "
        f"{where['date']}, {where['cpu']}, {where['cores']} shared cores, torch {where['torch']}: "
        f"CPU time with invariant passes over time without, medians of {ROUNDS} pairs; the first "
        f"{layers} layers of SmolLM2-135M and its output layer, fp32."
    )
    write_section("batch invariance", f"{said}\n\n{table([['pack', 'learned', 'scored'], *cells])}")


def main() -> None:
    """Measure, print and, where asked, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bits", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", type=int, help="one case of the list")
    parser.add_argument("--layers", type=int, default=30, help="the first so many of the base")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)

    def load(precision: str) -> Any:
        base: Any = load_base(ModelSpec(name=str(BASE)), precision)
        base.model.layers = base.model.layers[: asked.layers]
        return base

    if asked.bits:
        for precision in ("fp32", "bf16"):
            base = load(precision)
            for invariant in (False, True):
                changed, total = changed_bits(base, invariant=invariant)
                print(f"{precision} invariant={invariant}: {changed} of {total} rows differ")
        return
    bases = (load("fp32"), load("fp32"))
    costs: list[Cost] = []
    for case in CASES if asked.only is None else CASES[asked.only : asked.only + 1]:
        costs.append(cost_of(bases, case))
        print(costs[-1], flush=True)
    if asked.write:
        keep(costs, threads=asked.threads, layers=asked.layers)


if __name__ == "__main__":
    main()
