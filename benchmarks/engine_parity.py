"""Every method through every engine: how far each ends from the plain engine in fp32.

    .venv/bin/python benchmarks/engine_parity.py
    .venv/bin/python benchmarks/engine_parity.py --write    # writes engine_parity.md beside it
    .venv/bin/python benchmarks/engine_parity.py --write --kept-only  # of what is kept

What was computed is kept in `engine_parity.jsonl` beside it, a line for each case, and another run
goes on from there; remove the file to compute everything again.

All pairs of adapter and retention that are not refused, on a tiny random Llama: DeepSpeed at ZeRO 0
to 3 with two CPU workers, in fp32 (the largest relative difference of any loss or probe) and in
bf16 (the root mean square of differences over three seeds, as a multiple of the plain engine's own
in bf16). `tests/orchestrator/engines/test_parity.py` holds the short form to 1e-5 and 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_page import ROOT, machine

sys.path.insert(0, str(ROOT))

from tests.engine_parity import Case, World, cases, distances, mean_square
from tests.process_group import in_workers
from tests.tiny import write_base, write_tasks

STAGES = (0, 1, 2, 3)
SEEDS = (0, 1, 2)
PRECISIONS = ("fp32", "bf16")
KEPT = ROOT / "benchmarks" / "engine_parity.jsonl"


@dataclass(frozen=True)
class Plan:
    """What DeepSpeed computes."""

    cases: tuple[Case, ...]
    stages: tuple[int, ...] = STAGES
    bf16_seeds: tuple[int, ...] = SEEDS
    device: str = "cpu"


def sharded(rank: int, folder: Path, base: str, tasks: str, kept: str, plan: Plan) -> None:
    """Keep what DeepSpeed gives for every case of a plan, or why it refuses."""
    world = World(base, tasks, folder, plan.device)
    for case in plan.cases:
        found: dict[str, Any] = {}
        for stage in plan.stages:
            try:
                runs = [world.learn(case, "fp32", stage=stage)]
                runs += [
                    world.learn(case, "bf16", seed=seed, stage=stage) for seed in plan.bf16_seeds
                ]
            except (ValueError, NotImplementedError) as error:
                # Shown, so that a fault cannot pass for a method that a stage does not take.
                print(f"{case}, ZeRO {stage}: {error}", file=sys.stderr, flush=True)
                found[str(stage)] = str(error)
                continue
            found[str(stage)] = [run.tolist() for run in runs]
        if rank == 0:
            keep(Path(kept), {"case": str(case), "sharded": found})
            print(f"{case}", file=sys.stderr, flush=True)


def keep(file: Path, record: dict[str, Any]) -> None:
    """Add a record to those that are kept."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(record) + "\n")


def known(file: Path, part: str) -> dict[str, Any]:
    """What an earlier run has kept, by case."""
    records = map(json.loads, file.read_text().splitlines()) if file.is_file() else ()
    return {record["case"]: record[part] for record in records if part in record}


def lines(base: Path, tasks: Path, folder: Path, kept: Path, *, more: bool) -> list[str]:
    """The table, a line for each pair that is known; `more` computes those that are not."""
    if more:
        done = known(kept, "sharded")
        plan = Plan(tuple(case for case in cases() if str(case) not in done))
        in_workers(2, sharded, folder, str(base), str(tasks), str(kept), plan, timeout=7200)
    world, found, plain = World(base, tasks, folder), known(kept, "sharded"), known(kept, "plain")
    table = []
    for case in cases():
        if str(case) not in found:
            continue
        if str(case) not in plain:
            runs = {p: [world.learn(case, p, seed=s).tolist() for s in SEEDS] for p in PRECISIONS}
            keep(kept, {"case": str(case), "plain": runs})
            plain[str(case)] = runs
        exact = plain[str(case)]["fp32"]
        own = mean_square(distances(plain[str(case)]["bf16"], exact))
        cells = [str(case), f"{own:.1e}"]
        for stage in STAGES:
            got = found[str(case)][str(stage)]
            if isinstance(got, str):
                cells += ["refused", "refused"]
                continue
            fp32, *bf16 = got
            cells += [
                f"{distances(fp32, exact[0]).max():.1e}",
                f"{mean_square(distances(bf16, exact)) / own:.2f}",
            ]
        table.append(f"| {' | '.join(cells)} |")
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="also into engine_parity.md")
    parser.add_argument("--kept", type=Path, default=KEPT, help="the file of what was computed")
    parser.add_argument("--kept-only", action="store_true", help="compute no further case")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for name in ("base", "tasks", "run"):
            (root / name).mkdir()
        places = write_base(root / "base"), write_tasks(root / "tasks"), root / "run"
        table = lines(*places, arguments.kept.absolute(), more=not arguments.kept_only)
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    heads = ["method", "plain bf16", *(f"ZeRO {s} {p}" for s in STAGES for p in ("fp32", "bf16"))]
    page = "\n".join([
        "# Every method through every engine", "",
        "Written by `benchmarks/engine_parity.py`, which says what the numbers are.", "",
        f"{len(table)} of {len(cases())} pairs, with two workers on: {facts}.", "",
        "*plain bf16*: its distance from the plain engine in fp32. *fp32*: the largest relative",
        "difference of any loss or probe from the plain engine in fp32. *bf16*: the distance as a",
        "multiple of the plain engine's own.", "",
        f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *table, "",
    ])  # fmt: skip
    print(page)
    if arguments.write:
        (ROOT / "benchmarks/engine_parity.md").write_text(page)


if __name__ == "__main__":
    main()
