"""How long a trial takes to begin in a member of the pool that is warm.

    .venv/bin/python benchmarks/trial_start.py --write

A member holds SmolLM2-135M. Trials join it one after another, on all linear layers at rank 16, each
while the earlier ones step: what is timed is the member's call that lets a job begin, and the step
of all that follows. The bar is 1 s.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from results_page import machine, table, write_section
from sweep_throughput import Sweep, write_experiment

from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.executors.job import Job
from orchestrator.executors.messages import Failed
from orchestrator.executors.pool.member import Member
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.load import load_experiment
from orchestrator.system.seals import Maker

CURLORA = {"kind": "curlora", "r": 16, "target_modules": "all-linear"}
LORA = {"kind": "lora", "r": 16, "target_modules": "all-linear"}
STARTS: dict[str, dict[str, Any]] = {
    "CURLoRA, the first of the pack": {"method.adapter": CURLORA},
    "CURLoRA, another selection": {"method.adapter": {**CURLORA, "selection_seed": 1}},
    "CURLoRA, the same selection": {"method.adapter": {**CURLORA, "selection_seed": 1}},
    "LoRA, the first of its kind": {"method.adapter": LORA, "training.seed": 1},
    "LoRA, another": {"method.adapter": LORA, "training.seed": 2},
}


def measure() -> list[tuple[str, float, float]]:
    """What begins, its seconds, and the seconds of the step after it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = load_experiment(write_experiment(folder, Sweep(), "pool 1x1"))
        data = prepare(loaded, load_tokenizer(loaded.experiment.model))
        member = Member(loaded.experiment, data, folder)
        found: list[tuple[str, float, float]] = []
        for number, (label, overrides) in enumerate(STARTS.items()):
            trial = loaded.experiment.with_overrides(overrides)
            maker = Maker("benchmark", f"t{number}", "")
            member.take(Job(trial, maker, SweepFolder(folder)))
            start = time.perf_counter()
            member.begin()
            began = time.perf_counter()
            for who, message in member.work():
                match message:
                    case Failed(reason):
                        raise RuntimeError(f"{who}: {reason}")
                    case _:
                        pass
            found.append((label, began - start, time.perf_counter() - began))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the page")
    given = parser.parse_args()
    rows = [
        [label, f"{seconds:.2f} s", f"{steady:.2f} s"] for label, seconds, steady in measure()
    ]  # fmt: skip
    on = machine()
    text = (
        f"`python benchmarks/trial_start.py --write`, {on['date']}, {on['cores']} cores of "
        f"{on['cpu']}, load average {os.getloadavg()[0]:.1f}; torch {on['torch']}. SmolLM2-135M, "
        "all linear layers, r = 16, bf16, one thread.\n\n"
        + table([["what joins", "to join", "the next step of all in the member"], *rows])
    )
    print(text)
    if given.write:
        write_section("trial start", text)


if __name__ == "__main__":
    main()
