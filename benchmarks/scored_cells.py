"""Tokens that a trial scores: its whole matrix on all examples, and what a search needs of it.

    .venv/bin/python -m benchmarks.scored_cells [FILE ...] [--data-root DIR] [--json]

No model is loaded and nothing is trained: the tasks are tokenised as a sweep does it (with an
estimate from bytes where the tokenizer is not on this machine, which is said), and the tokens of
every scored cell, rung and probe are counted. Without files: `experiments/demo.yaml` and
`experiments/methods_small.yaml`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.planning.plan import Machine
from orchestrator.planning.planner import make_plan
from orchestrator.spec.load import load_experiment
from orchestrator.system.formatting import count

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "experiments/demo.yaml", ROOT / "experiments/methods_small.yaml")


def counted(file: Path, data_root: Path | None = None) -> dict[str, Any]:
    """Count what a trial of an experiment scores.

    Args:
        file: The experiment file.
        data_root: Where tasks are read from instead, see `load_experiment`.

    Returns:
        `learnt`, `full` and `screened` tokens of one trial, the share of `full` that is screened,
        what is scored in words, and where the counts come from.
    """
    machine = Machine(cpus=2.0, gpus=0.0, memory=None, disk=None)
    loaded = load_experiment(file, data_root)
    plan = make_plan(loaded, machine, calibrate=False)
    full = loaded.experiment.model_copy(update={"scoring": "full"})
    whole = make_plan(
        loaded.model_copy(update={"experiment": full}), machine, calibrate=False
    ).evaluation_tokens
    return {
        "experiment": plan.name,
        "learnt": plan.train_tokens,
        "full": whole,
        "screened": plan.evaluation_tokens,
        "share": plan.evaluation_tokens / whole if whole else 1.0,
        "scored": plan.scored,
        "tokens_from": plan.tokens_from,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=FILES)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = [counted(file, given.data_root) for file in given.files]
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for each in found:
        print(
            f"{each['experiment']}: a trial learns {count(each['learnt'], 'token')}, scores "
            f"{each['full']:,} with `scoring: full` and {each['screened']:,} screened "
            f"({each['share']:.3f}): {each['scored']}. Counts: {each['tokens_from']}."
        )


if __name__ == "__main__":
    main()
