"""What one more report costs the driver in MLflow's projection, by the number of trials before it.

    .venv/bin/python benchmarks/projection_growth.py                 # a client that keeps nothing
    .venv/bin/python benchmarks/projection_growth.py --sqlite        # and a real database

Each number is the median CPU time (milliseconds, this process) of `Projection.catch_up` after one
more rung report of one trial, when so many other trials have ended. The client that keeps nothing
shows our own work; SQLite adds MLflow's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.records.event import Line
from orchestrator.records.mlflow.address import tracking_uri
from orchestrator.records.mlflow.projection import Projection
from orchestrator.spec.experiment import Experiment

REPORTS = 30


class _Page(list[Any]):
    token = None


class _Client:
    """Takes everything and keeps nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    def search_experiments(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def create_experiment(self, *_: Any, **__: Any) -> str:
        return "1"

    def search_runs(self, *_: Any, **__: Any) -> _Page:
        return _Page()

    def create_run(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id="run"))


class _Quiet(Projection):
    def _connected(self) -> Any:
        return _Client()


def journal(trials: int) -> list[Line]:
    """A sweep in which so many trials have learnt one task and ended."""
    experiment = Experiment.model_validate({
        "name": "growth", "model": {"name": "base"}, "tasks": ["a", "b"],
        "method": {"adapter": {"kind": "lora", "r": 4}}, "objectives": {"gain": "max"},
        "champion": {"subject_to": {}},
    }).model_dump(mode="json")  # fmt: skip
    lines: list[Line] = []

    def add(event: str, **fields: Any) -> None:
        lines.append({"n": len(lines), "time": 1.7e9 + len(lines), "event": event, **fields})

    add("sweep_opened", sweep="growth", experiment=experiment, tasks={}, yaml="", provenance={})
    for number in range(trials):
        trial = f"t{number:05d}"
        add("trial_proposed", trial=trial, overrides={}, by="tpe")
        add("trial_started", trial=trial, attempt=1)
        for index in range(2):
            add("stage_report", trial=trial, report=report(index, 1.0, row=[0.5, 0.5]))
        add("trial_ended", trial=trial, state="COMPLETE", reason="", measures={"gain": 0.1},
            gain_interval=[0.0, 0.2], adapter=None, log=None)  # fmt: skip
    add("trial_proposed", trial="last", overrides={}, by="tpe")
    add("trial_started", trial="last", attempt=1)
    return lines


def report(index: int, fraction: float, row: list[float] | None = None) -> dict[str, Any]:
    """What a trial says at a rung of a task, or at its end."""
    return {
        "task": "ab"[index], "task_index": index, "step": int(100 * fraction), "steps": 100,
        "fraction": fraction, "score": 0.5, "loss": 1.0, "losses": [1.0] * 4, "tokens": 1000,
        "learning_rates": [0.001] * 4, "seconds": 1.0, "row": row, "probes": None,
    }  # fmt: skip


def milliseconds(trials: int, *, sqlite: bool) -> float:
    """The median CPU time of projecting one more report, after so many trials."""
    with tempfile.TemporaryDirectory() as scratch:
        storage = Path(scratch)
        kind = Projection if sqlite else _Quiet
        uri = tracking_uri(None if sqlite else "http://nowhere", storage)
        projection, lines, taken = kind(uri, storage / "growth"), journal(trials), []
        projection.catch_up(lines)
        for number in range(REPORTS):
            line = {"n": len(lines), "time": 1.8e9 + number, "event": "stage_report"}
            lines.append({**line, "trial": "last", "report": report(0, (number + 1) / 100)})
            begin = time.process_time()
            projection.catch_up(lines)
            taken.append(1000 * (time.process_time() - begin))
    return statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[250, 2000])
    parser.add_argument("--sqlite", action="store_true", help="also with a real database")
    options = parser.parse_args()
    for sqlite in (False, True)[: 1 + options.sqlite]:
        for trials in options.trials:
            where = "SQLite" if sqlite else "nothing kept"
            taken = milliseconds(trials, sqlite=sqlite)
            print(f"{where}: {trials:6d} trials, {taken:8.3f} ms a report")


if __name__ == "__main__":
    main()
