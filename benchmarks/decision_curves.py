"""Learning curves of real trials with the score of each example at every rung, kept to be replayed.

    python -m benchmarks.decision_curves FOLDER... --to benchmarks/decisions/NAME.parquet

FOLDER is a sweep whose file has `raced: true` and searches at random over a portfolio, finished or
not; its whole trials are taken. One row for each trial, rung, measure and task: what the examples
of the task add to the measure (see `orchestrator.measures.paired.Parts`), as 32-bit floats.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.base.facts import vocabulary
from orchestrator.base.loading import load_tokenizer
from orchestrator.data.preparation import prepare
from orchestrator.planning.tokens import TaskFacts, prepared_facts
from orchestrator.records.journal import Journal
from orchestrator.records.journal_facts import effective_experiment
from orchestrator.records.stage_report import DONE
from orchestrator.records.sweep_state import SweepState
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.task_files import parse_task
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.race import Rung
from orchestrator.sweep.deciding.standings import RungStandings
from orchestrator.sweep.deciding.trial import Trial

LEARNING = 3.0
"""What a learnt token costs, in scored ones: forward, and backward to inputs and adapters."""
WHOLE = "whole"
"""Stands in the place of a task for the value of a measure itself."""


class _Quiet:
    """Nobody is told anything."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@dataclass(frozen=True)
class Moment:
    """A trial at a rung, or at its end."""

    cost: float
    """Tokens that it has learnt or scored by then, a learnt one as `LEARNING`."""
    values: dict[str, float]
    parts: dict[str, dict[str, Any]] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """A recorded trial."""

    sequence: str
    """Base and tasks, in a word."""
    trial: str
    overrides: dict[str, Any]
    rungs: dict[Rung, Moment]
    """In order; the last one is its end."""

    @property
    def preset(self) -> str:
        """Its method."""
        return str(self.overrides.get("method.preset"))

    @property
    def end(self) -> Moment:
        """What it measures at its end."""
        return list(self.rungs.values())[-1]


def curves_of(folder: Path) -> list[Curve]:
    """The whole trials of a sweep.

    Args:
        folder: The sweep's; it may be running.

    Returns:
        Their curves. Controls that learn all tasks at once are left out.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / folder.name
        copy.mkdir()
        shutil.copyfile(folder / "journal.jsonl", copy / "journal.jsonl")
        with Journal(copy) as journal:
            return _curves(journal, folder.name)


def _curves(journal: Journal, name: str) -> list[Curve]:
    state = SweepState.of(journal.lines, whole=False)
    experiment = effective_experiment(state.experiment, {})
    tasks = {task: parse_task(file, task) for task, file in state.task_files.items()}
    loaded = LoadedExperiment(
        experiment=experiment, tasks=tasks, text=state.yaml, origin=state.origin
    )
    data = prepare(
        loaded, load_tokenizer(experiment.model), vocabulary=vocabulary(experiment.model)
    )
    facts = {one.name: one for one in prepared_facts(experiment, data)[0]}
    ledger = Ledger(loaded, journal, _Quiet(), data)
    standings = RungStandings(ledger)
    return [
        Curve(name, trial.name, trial.overrides, _moments(trial, ledger, standings, facts))
        for trial in ledger.eligible()
    ]


def _moments(
    trial: Trial, ledger: Ledger, standings: RungStandings, facts: dict[str, TaskFacts]
) -> dict[Rung, Moment]:
    found: dict[Rung, Moment] = {}
    scored, last = 0.0, (len(ledger.experiment.tasks) - 1, DONE)
    for rung, report in sorted(trial.reports.items()):
        for task, examples in (report.examples or {}).items():
            each = facts[task].validation_tokens / max(1, facts[task].validation_examples)
            scored += examples * each
        scored += sum(facts[probe].validation_tokens for probe in report.probes or {})
        values = dict(standings.values(trial.name, rung) or {})
        if rung == last:
            values |= trial.searched_measures or {}
        parts = {
            measure: {task: np.asarray(each, dtype=np.float32) for task, each in by_task.items()}
            for measure, by_task in standings.parts(trial.name, rung).items()
        }
        found[rung] = Moment(LEARNING * report.tokens + scored, values, parts)
    return found


def write(curves: Iterable[Curve], path: Path) -> None:
    """Keep curves as Parquet."""
    rows: list[dict[str, Any]] = []
    for curve in curves:
        for (index, fraction), moment in curve.rungs.items():
            shared = {
                "sequence": curve.sequence, "trial": curve.trial, "task_index": index,
                "fraction": fraction, "cost": moment.cost,
                "overrides": json.dumps(curve.overrides, sort_keys=True),
            }  # fmt: skip
            for measure, value in moment.values.items():
                rows.append({**shared, "measure": measure, "part": WHOLE, "each": [value]})
            for measure, parts in moment.parts.items():
                rows += [
                    {**shared, "measure": measure, "part": task, "each": each.tolist()}
                    for task, each in parts.items()
                ]
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame["each"] = [np.asarray(each, dtype=np.float32) for each in frame["each"]]
    frame.to_parquet(path, compression="zstd", index=False)


def read(paths: Sequence[Path]) -> list[Curve]:
    """The curves of some files, in the order in which they were recorded."""
    found: list[Curve] = []
    for path in paths:
        frame = pd.read_parquet(path)
        for (sequence, trial), rows in frame.groupby(["sequence", "trial"], sort=False):
            rungs: dict[Rung, Moment] = {}
            for row in rows.itertuples():
                rung = (int(row.task_index), float(row.fraction))
                moment = rungs.setdefault(rung, Moment(float(row.cost), {}, {}))
                if row.part == WHOLE:
                    moment.values[row.measure] = float(row.each[0])
                else:
                    moment.parts.setdefault(row.measure, {})[row.part] = np.asarray(row.each)
            overrides = json.loads(rows["overrides"].iloc[0])
            found.append(Curve(str(sequence), str(trial), overrides, dict(sorted(rungs.items()))))
    return found


def main() -> None:
    """Record the sweeps that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--to", required=True, type=Path)
    asked = parser.parse_args()
    curves = [curve for folder in asked.folders for curve in curves_of(folder)]
    write(curves, asked.to)
    size = asked.to.stat().st_size / 2**10
    print(f"{len(curves)} curves in {asked.to}, {size:.0f} KiB")


if __name__ == "__main__":
    main()
