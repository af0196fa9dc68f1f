"""What lists, filters, sorts, front and diff of a full storage folder cost, beside MLflow's search.

    .venv/bin/python benchmarks/registry.py [--trials 3 1000 10000] [--many] [--mlflow]

Journals are synthetic (`synthetic_journals.py`: 50 measures and some 50 settings a trial). Each
size is measured as one sweep; `--many` adds the largest as sweeps of 100 trials each. In a running
process: the median of 9 calls, milliseconds of CPU time, which is what the clock shows where
nothing else runs. As a command: CPU seconds (user and system) and the peak of resident memory of
the whole process, imports included; the second of two runs.
`--mlflow` fills MLflow's SQLite with as many runs (rows inserted at once into the tables that
MLflow itself has made) and asks `search_runs` for the same.

Bars at 10,000 trials: 200 ms in a process, 1.5 CPU seconds and 150 MB as a command.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from card_cost import measured as cards_measured
from projection_calls import measured as projection_measured
from synthetic_journals import BEGUN, lines, sweep_events, trial_events, write_sweep

from orchestrator.records.events import TrialEnded

HERE = Path(__file__).parent
WHERE = (
    "gain > 0.3 and (method.adapter.kind = lora or method.adapter.r in (4, 8)) and state != FAILED"
)
ORDER = ["-gain", "forgetting"]
MLFLOW_WHERE = (
    "metrics.gain > 0.3 AND params.`method.adapter.kind` = 'lora' AND tags.state != 'FAILED'"
)
CALLS = 9


def _milliseconds(call: Callable[[], Any]) -> float:
    call()
    spent: list[float] = []
    for _ in range(CALLS):
        begin = time.process_time()
        call()
        spent.append(1000 * (time.process_time() - begin))
    return round(statistics.median(spent), 1)


_LAUNCHER = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime,
                  usage.ru_maxrss]))
"""
"""Starts a command: the peak of a process is at least that of the one which started it."""


def _command(*words: str) -> dict[str, float]:
    """CPU seconds and MB of a command, in a process of its own."""
    found: dict[str, float] = {}
    for _ in range(2):
        code = "import sys; from orchestrator.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-S", "-c", _LAUNCHER, sys.executable, "-c", code, *words],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        status, seconds, kilobytes = json.loads(done.stdout)
        if status:
            raise SystemExit(f"{' '.join(words)}: {done.stderr}")
        found = {"cpu_s": round(seconds, 2), "peak_mb": round(kilobytes / 1024)}
    return found


def in_process(storage: Path, sweep: str, trials: int) -> dict[str, float]:
    """Milliseconds of each question to an open index."""
    from orchestrator.api.diff import diff
    from orchestrator.registry.champions.champion import champion
    from orchestrator.registry.champions.comparison import compare
    from orchestrator.registry.index.index import open_index

    with open_index(storage) as index:
        whole = index.search("state = COMPLETE", sweep=sweep, limit=None, columns=["trial"]).rows
        last = whole[-1]["trial"]
        names = [row["trial"] for row in index.search(sweep=sweep, limit=50).rows]
        return {
            "sweeps": _milliseconds(index.sweeps),
            "first page": _milliseconds(lambda: index.search(sweep=sweep)),
            "last page": _milliseconds(lambda: index.search(offset=max(0, trials - 50))),
            "filter": _milliseconds(lambda: index.search(WHERE)),
            "sort": _milliseconds(lambda: index.search(order=ORDER)),
            "filter and sort": _milliseconds(lambda: index.search(WHERE, order=ORDER)),
            "like": _milliseconds(lambda: index.search("trial like '%9%' or reason like '%LOSS%'")),
            "all rows, 5 columns": _milliseconds(
                lambda: index.search(
                    limit=None, columns=["trial", "gain", "forgetting", "state", "on_front"]
                )
            ),
            "front": _milliseconds(lambda: index.front(sweep)),
            "fields": _milliseconds(index.fields),
            "50 trials as JSON": _milliseconds(lambda: index.documents(sweep, names)),
            "diff of two trials": _milliseconds(
                lambda: diff(f"{sweep}/t001", f"{sweep}/{last}", storage)
            ),
            "diff of two adapters": _milliseconds(
                lambda: diff(f"{sweep}/t001@1", f"{sweep}/{last}@2", storage)
            ),
            "champion": _milliseconds(lambda: champion(storage, sweep)),
            "champion beside a challenger": _milliseconds(
                lambda: compare(storage, sweep, f"{sweep}/t001")
            ),
            "refresh, nothing new": _milliseconds(index.refresh),
        }


def live(folder: Path, trials: int) -> dict[str, float]:
    """Milliseconds of a look after each of some lines that a running sweep appends."""
    import random

    from orchestrator.registry.index.index import open_index

    journal = folder / "journal.jsonl"
    count = journal.read_bytes().count(b"\n")
    events = [*sweep_events(folder.name, trials, ended=False)][:count]
    events += trial_events(f"t{trials + 1:03d}", random.Random(1))
    fresh = list(lines(iter(events), BEGUN))[count:]
    spent: list[float] = []
    with open_index(folder.parent) as index:
        for line in fresh:
            with journal.open("ab") as file:
                file.write(line)
            begin = time.process_time()
            index.refresh()
            spent.append(1000 * (time.process_time() - begin))
    return {"median_ms": round(statistics.median(spent), 1), "most_ms": round(max(spent), 1)}


def as_commands(storage: Path, sweep: str, trials: int) -> dict[str, dict[str, float]]:
    """CPU seconds and memory of commands."""
    at = ("--storage", str(storage))
    last = f"t{trials:03d}"
    return {
        "--version": _command("--version"),
        "runs list": _command("runs", "list", *at),
        "runs list SWEEP": _command("runs", "list", sweep, *at),
        "filter and sort": _command(
            "runs", "list", sweep, "--filter", WHERE, "--sort", "-gain", *at
        ),
        "filter, all sweeps": _command("runs", "list", "--filter", WHERE, "--sort", "-gain", *at),
        "--csv, all rows": _command("runs", "list", sweep, "--csv", *at),
        "--json, 50 rows": _command("runs", "list", sweep, "--json", "--limit", "50", *at),
        "--json, all rows": _command("runs", "list", sweep, "--json", *at),
        "runs show SWEEP --json": _command("runs", "show", sweep, "--json", *at),
        "runs show SWEEP TRIAL": _command("runs", "show", sweep, last, *at),
        "runs diff": _command("runs", "diff", f"{sweep}/t001", f"{sweep}/{last}", *at),
        "runs diff of adapters": _command("runs", "diff", f"{sweep}/t001@1", f"{sweep}/t002", *at),
        "runs show SWEEP": _command("runs", "show", sweep, *at),
        "champion show": _command("champion", "show", sweep, *at),
        "champion compare": _command("champion", "compare", sweep, f"{sweep}/t001", *at),
    }


def measured(trials: int, sweeps: int = 1) -> dict[str, Any]:
    """One storage folder of that many trials in all."""
    from orchestrator.registry.index.database import index_file
    from orchestrator.registry.index.index import open_index

    with tempfile.TemporaryDirectory() as place:
        storage = Path(place) / "runs"
        each = trials // sweeps
        for n in range(sweeps):
            write_sweep(storage, f"s{n:03d}", each, seed=n)
        journals = sum(path.stat().st_size for path in storage.glob("*/journal.jsonl"))
        begin = time.process_time()
        open_index(storage).close()
        built = time.process_time() - begin
        found: dict[str, Any] = {
            "trials": trials,
            "sweeps": sweeps,
            "journals_mb": round(journals / 1e6, 1),
            "index_mb": round(index_file(storage).stat().st_size / 1e6, 1),
            "first_build_cpu_s": round(built, 2),
            "process_ms": in_process(storage, "s000", each),
            "commands": as_commands(storage, "s000", each),
        }
        if sweeps == 1:
            going = write_sweep(storage, "live", trials, ended=False)
            open_index(storage).close()
            found["live_refresh"] = live(going, trials)
    return found


def mlflow_filled(uri: str, trials: int) -> str:
    """Fill MLflow's own tables with as many runs; gives the experiment's number."""
    import random

    from mlflow import MlflowClient

    from orchestrator.records.sweep_state import SweepState

    client = MlflowClient(uri)
    experiment = client.create_experiment("synthetic")
    client.create_run(experiment)  # lets MLflow make and know its tables
    state = SweepState.of(
        {"n": n, "time": BEGUN, **event.to_line()}
        for n, event in enumerate(sweep_events("synthetic", 1))
    )
    settings = state.settings(state.trials[0])
    chance = random.Random(0)
    database = sqlite3.connect(uri.removeprefix("sqlite:///"))
    for n in range(trials):
        run = f"{n:032x}"
        _insert_run(database, run, experiment, n, settings, chance)
    database.commit()
    database.close()
    return experiment


def _insert_run(
    database: sqlite3.Connection,
    run: str,
    experiment: str,
    n: int,
    settings: dict[str, Any],
    chance: Any,
) -> None:
    ended = [e for e in trial_events(f"t{n:03d}", chance) if isinstance(e, TrialEnded)]
    measures = ended[0].measures or {}
    begun = int(1000 * BEGUN) + n
    database.execute(
        "INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, end_time, "
        "lifecycle_stage, artifact_uri, experiment_id) VALUES (?, ?, 'LOCAL', 'u', 'FINISHED', ?, "
        "?, 'active', ?, ?)",
        (run, f"t{n:03d}", begun, begun + 1000, f"/tmp/{run}", experiment),
    )
    for table in ("metrics", "latest_metrics"):
        database.executemany(
            f"INSERT INTO {table} (key, value, timestamp, run_uuid, step, is_nan) "
            "VALUES (?, ?, ?, ?, 0, 0)",
            [(name, value, begun, run) for name, value in measures.items()],
        )
    own = {**settings, "method.adapter.kind": chance.choice(["lora", "curlora"])}
    database.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
        [(path, str(value), run) for path, value in own.items()],
    )
    database.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
        [("state", "COMPLETE", run), ("trial", f"t{n:03d}", run), ("mlflow.runName", run, run)],
    )


def mlflow_measured(trials: int) -> dict[str, Any]:
    """The same questions to MLflow, in a process and as one."""
    with tempfile.TemporaryDirectory() as place:
        uri = f"sqlite:///{place}/mlflow.db"
        experiment = mlflow_filled(uri, trials)
        from mlflow import MlflowClient

        client = MlflowClient(uri)

        def search(where: str, order: list[str] | None = None) -> Any:
            return client.search_runs([experiment], where, max_results=50, order_by=order)

        found = {
            "trials": trials,
            "database_mb": round(Path(place, "mlflow.db").stat().st_size / 1e6, 1),
            "process_ms": {
                "first page": _milliseconds(lambda: search("")),
                "filter": _milliseconds(lambda: search(MLFLOW_WHERE)),
                "sort": _milliseconds(lambda: search("", ["metrics.gain DESC"])),
                "filter and sort": _milliseconds(
                    lambda: search(MLFLOW_WHERE, ["metrics.gain DESC"])
                ),
            },
        }
        code = (
            "import sys; from mlflow import MlflowClient; "
            f"MlflowClient({uri!r}).search_runs([{experiment!r}], {MLFLOW_WHERE!r}, max_results=50,"
            " order_by=['metrics.gain DESC'])"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = status
        found["command"] = {
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_mb": round(usage.ru_maxrss / 1024),
        }
        return found


def main() -> None:
    """Measure, print, and write `registry.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[3, 1000, 10_000])
    parser.add_argument("--many", action="store_true", help="the largest as sweeps of 100, too")
    parser.add_argument("--mlflow", action="store_true", help="MLflow's search beside it")
    parser.add_argument("--cards", action="store_true", help="what cards cost the driver")
    parser.add_argument(
        "--projection", action="store_true", help="the projection beside the calls that it makes"
    )
    parser.add_argument("--output", type=Path, default=HERE / "registry.json")
    given = parser.parse_args()
    where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    found: dict[str, Any] = {"machine": where}
    largest = max(given.trials)
    wanted = [(trials, 1) for trials in given.trials]
    found["storages"] = []
    for trials, sweeps in [*wanted, *([(largest, largest // 100)] if given.many else [])]:
        found["storages"].append(measured(trials, sweeps))
        # What takes minutes is not lost with what follows.
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    if given.mlflow:
        found["mlflow"] = mlflow_measured(largest)
    if given.cards:
        found["cards"] = cards_measured(300, 5)
    if given.projection:
        found["projection"] = projection_measured(100, 5)
    given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
