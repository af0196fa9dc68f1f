"""Tokens that a whole sweep computes: with every matrix whole, and as its file has it.

    python benchmarks/sweep_tokens.py experiments/methods_small.yaml --front 3 --data-root DIR

A token that is learnt counts three times one that is scored (forward and backward), a replayed row
as a new one. Nothing is trained: the tasks are tokenised as a sweep does it, and what each trial of
a grid learns and scores is counted, so the figures hold on any machine. *Whole* is what sweeps did
before they screened: the whole matrix of every trial and every repetition on all examples, and a
row for each choice of a question. Tasks that trials take over from one another are not subtracted.
With `--write` the figures stand in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from results_page import table, write_section

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.loading import load_tokenizer
from orchestrator.data.items import Item
from orchestrator.data.model_inputs import apart
from orchestrator.data.preparation import prepare
from orchestrator.data.prepared import PreparedData, PreparedTask
from orchestrator.loop.scoring import rows_of
from orchestrator.loop.task_sequence import rung_steps, task_sequence
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import ScoringSpec

LEARNT = 3
"""What a learnt token counts."""


@dataclass(frozen=True)
class Work:
    """What is computed, in scored tokens."""

    learnt: float = 0.0
    scored: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.learnt + other.learnt, self.scored + other.scored)

    def times(self, count: int) -> Work:
        """The same so many times."""
        return Work(count * self.learnt, count * self.scored)


def scored_tokens(items: Iterable[Item], *, joint: bool) -> int:
    """Tokens of the rows that score some items; prompts once for all choices, or for each."""
    rows = rows_of(list(items))
    return sum(len(part.tokens) for row in rows for part in ([row] if joint else apart(row)))


def work_of(experiment: Experiment, data: PreparedData, *, joint: bool) -> Work:
    """What one trial learns and scores.

    Args:
        experiment: The trial's.
        data: The sweep's.
        joint: Whether a prompt is read once for all its choices.

    Returns:
        The counts.
    """

    def tokens(task: PreparedTask, count: int | None = None) -> int:
        return scored_tokens(task.validation[:count], joint=joint)

    sequence, whole = task_sequence(experiment, data), Work()
    replays = RETENTIONS[experiment.method.retention.kind].replays
    for stage in sequence.stages:
        batches = sequence.batches(stage)
        read = sum(len(example.tokens) for batch in batches for example in batch)
        again = 2 if replays and stage.index else 1
        rungs = len(rung_steps(len(batches)))
        scored = sum(rungs * tokens(t, sequence.examples_at_rungs) for t in stage.tasks)
        scored += sum(tokens(*asked) for asked in sequence.tasks_after(stage.index + 1))
        scored += sum(tokens(probe) for probe in sequence.probes_after(stage.index + 1))
        whole += Work(LEARNT * again * read, scored)
    return whole


def sweep_work(experiment: Experiment, data: PreparedData, front: int) -> dict[str, Work]:
    """What a grid with repeated finalists computes, by its parts.

    Args:
        experiment: The sweep's.
        data: Its data.
        front: How many trials of the front are no finalist; they count as the mean trial.

    Returns:
        By `whole` what it all was; the other parts are what it is now.

    Raises:
        SystemExit: The file has no grid.
    """
    search, per = experiment.search, experiment.finalists.per
    if search is None or search.searcher != "grid":
        raise SystemExit(f"{experiment.name} has no grid, whose trials could be counted")
    trials = [experiment.with_overrides(point) for point in search.points[: search.count]]
    groups = {
        json.dumps(point.get(per)): t for point, t in zip(search.points, trials, strict=False)
    }
    finalists = list(groups.values()) if experiment.finalists.fresh_seeds else []
    seeds = experiment.finalists.fresh_seeds

    def each(those: Iterable[Experiment], scoring: Any, *, joint: bool = True) -> Work:
        found = (t.model_copy(update={"scoring": scoring}) for t in those)
        return sum((work_of(t, data, joint=joint) for t in found), Work())

    full = each(trials, "full", joint=False) + each(finalists, "full", joint=False).times(seeds)
    own = experiment.scoring
    left = each(finalists, "full").scored - each(finalists, own).scored
    left += front / len(trials) * (each(trials, "full").scored - each(trials, own).scored)
    repeated = own if own == "full" else ScoringSpec(screen="all")
    return {
        "whole": full,
        "search": each(trials, own),
        "whole matrices of front and finalists": Work(0, left),
        "repetitions": each(finalists, repeated).times(seeds),
    }


def parts_table(found: Mapping[str, Work]) -> str:
    """The parts in Markdown, the sum beside what it was."""
    before = found["whole"]
    parts = {name: work for name, work in found.items() if name != "whole"}
    sums = {**parts, "all of it": sum(parts.values(), Work()), "whole, as before": before}
    total = before.learnt + before.scored
    return table([
        ("part", "learnt x 3", "scored", "both", "share of before"),
        *(
            (name, f"{one.learnt:,.0f}", f"{one.scored:,.0f}", f"{one.learnt + one.scored:,.0f}",
             f"{(one.learnt + one.scored) / total:.3f}")
            for name, one in sums.items()
        ),
    ])  # fmt: skip


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--front", type=int, default=0, help="of the front, that is no finalist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    loaded = load_experiment(given.file, given.data_root)
    data = prepare(loaded, load_tokenizer(loaded.experiment.model))
    text = (
        f"`python benchmarks/sweep_tokens.py {given.file} --front {given.front}`, {date.today()}: "
        "counted with the base's tokenizer, nothing was trained.\n\n"
        + parts_table(sweep_work(loaded.experiment, data, given.front))
    )
    print(text)
    if given.write:
        write_section(f"sweep tokens {loaded.experiment.name}", text)


if __name__ == "__main__":
    main()
