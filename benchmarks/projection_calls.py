"""What the projection into MLflow costs beside the bare calls of MLflow's client that it makes.

    .venv/bin/python benchmarks/projection_calls.py [--trials 100] [--repeats 5]

A projection of a synthetic sweep (`synthetic_journals.py`) records every call of MLflow's client
with its arguments. The same calls are then made by a loop that does nothing else, into a database
of its own, in turn with projections into others: of each pair, the CPU time of the projection over
that of the loop. Both begin with a copy of an empty database. `whole`: a journal that MLflow knows
nothing of; `as it runs`: caught up with after each trial that ends. Bar: 1.5. `registry.py` writes
the result into `registry.json`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from synthetic_journals import write_sweep

from orchestrator.records.event import Line
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.address import database_address
from orchestrator.records.mlflow.client import connect
from orchestrator.records.mlflow.projection import Projection

Call = tuple[str, tuple[Any, ...], dict[str, Any], Any]
Spent = dict[str, float]
"""Seconds: `cpu` of this process, and `clock`."""


class _Recorder:
    """MLflow's client; what is asked of it is remembered, with what it answered."""

    def __init__(self, client: Any, calls: list[Call]) -> None:
        self._client, self._calls = client, calls

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._client, name)

        def call(*args: Any, **fields: Any) -> Any:
            answer = inner(*args, **fields)
            self._calls.append((name, args, fields, answer))
            return answer

        return call


class _Recorded(Projection):
    """A projection whose calls are remembered."""

    calls: list[Call]

    def _connected(self) -> Any:
        return _Recorder(super()._connected(), self.calls)


def recorded(uri: str, folder: Path, parts: Sequence[Sequence[Line]]) -> list[Call]:
    """The calls of a projection that is given a journal part by part."""
    made = _Recorded(uri, folder)
    made.calls = []
    for lines in parts:
        made.catch_up(lines, running=True)
    return made.calls


def projected(uri: str, folder: Path, parts: Sequence[Sequence[Line]]) -> Spent:
    """What a projection takes, its client being there already."""
    projection = Projection(uri, folder)
    projection.check()
    return _spent(lambda: [projection.catch_up(lines, running=True) for lines in parts])


def bare(uri: str, calls: Sequence[Call]) -> Spent:
    """What the same calls take in a loop, with the identities that this database gives."""
    client, known = connect(uri), dict[str, str]()
    client.search_experiments(max_results=1)

    def same(value: Any) -> Any:
        if isinstance(value, str):
            return known.get(value, value)
        if isinstance(value, dict):
            return {key: same(inner) for key, inner in value.items()}
        return [same(inner) for inner in value] if type(value) is list else value

    def loop() -> None:
        for name, args, fields, before in calls:
            answer = getattr(client, name)(*map(same, args), **same(fields))
            if name == "create_run":
                known[before.info.run_id] = answer.info.run_id
            elif name == "create_experiment":
                known[before] = answer

    return _spent(loop)


def _spent(do: Callable[[], Any]) -> Spent:
    cpu, clock = time.process_time(), time.perf_counter()
    do()
    return {"cpu": time.process_time() - cpu, "clock": time.perf_counter() - clock}


def parts_of(lines: Sequence[Line], *, as_it_runs: bool) -> list[Sequence[Line]]:
    """A journal whole, or up to each line that ends a trial, and then whole."""
    ends = [n + 1 for n, line in enumerate(lines) if line["event"] == "trial_ended"]
    return [lines[:end] for end in ends if as_it_runs] + [lines]


def measured(trials: int, repeats: int) -> dict[str, Any]:
    """Projection and bare calls in turn.

    Args:
        trials: Of the synthetic sweep.
        repeats: Pairs of each kind.

    Returns:
        Per kind: the calls, milliseconds a trial of both, and the median and largest ratio.
    """
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        empty = home / "empty.db"
        Projection(database_address(empty), home / "none").check()
        number = iter(range(10_000))

        def fresh() -> tuple[str, Path]:
            storage = home / f"runs{next(number)}"
            folder = write_sweep(storage, "synthetic", trials)
            shutil.copyfile(empty, storage / "mlflow.db")
            return database_address(storage / "mlflow.db"), folder

        found: dict[str, Any] = {"trials": trials, "pairs": repeats}
        for kind, as_it_runs in (("whole", False), ("as it runs", True)):
            uri, folder = fresh()
            parts = parts_of(read_journal(folder), as_it_runs=as_it_runs)
            calls = recorded(uri, folder, parts)
            pairs: list[tuple[Spent, Spent]] = []
            for turn in range(repeats):
                two: dict[str, Spent] = {}
                for which in ("ours", "bare")[:: 1 if turn % 2 else -1]:
                    uri, folder = fresh()
                    two[which] = (
                        projected(uri, folder, parts) if which == "ours" else bare(uri, calls)
                    )
                pairs.append((two["ours"], two["bare"]))
            found[kind] = _summary(pairs, len(calls), trials)
        return found


def _summary(pairs: Sequence[tuple[Spent, Spent]], calls: int, trials: int) -> dict[str, Any]:
    ratios = {
        unit: sorted(ours[unit] / alone[unit] for ours, alone in pairs) for unit in ("cpu", "clock")
    }

    def each(side: int) -> float:
        return round(1000 * statistics.median(pair[side]["cpu"] for pair in pairs) / trials, 2)

    return {
        "calls": calls,
        "ours_cpu_ms_a_trial": each(0),
        "bare_cpu_ms_a_trial": each(1),
        "ratio_cpu": round(statistics.median(ratios["cpu"]), 3),
        "ratio_cpu_largest": round(ratios["cpu"][-1], 3),
        "ratio_clock": round(statistics.median(ratios["clock"]), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    print(json.dumps(measured(asked.trials, asked.repeats), indent=1))


if __name__ == "__main__":
    main()
