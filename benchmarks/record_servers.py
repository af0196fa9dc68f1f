"""How fast a sweep is shown by MLflow on PostgreSQL, with its artifacts in a bucket.

    python benchmarks/record_servers.py [--trials 400]

writes benchmarks/record_servers.json. A journal of a sweep that never ran is projected as a running
sweep does it: after every few lines (as they come while `catch_up` is at work, so that what is
written in one go grows with what has happened meanwhile) into MLflow's server, which, with its
database and an S3 server, is a process of its own on this machine. The bar is 200 trials a minute
on two cores. `one_line_at_a_time` is the worst case, a call for each line. CPU seconds are of this
process, which is the driver's part, and of the servers together. Needs Debian's `postgresql`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results_page import machine
from benchmarks.synthetic_journals import write_sweep
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.mlflow.projection import Projection
from tests.record_servers import RecordServers, record_servers

WAYS = {"one_line_at_a_time": 1, "five_lines": 5, "a_trial_in_flight_each_of_64": 64}


def measure(servers: RecordServers, storage: Path, name: str, trials: int, step: int) -> Any:
    """Project a sweep's journal in steps of so many lines."""
    assert servers.mlflow is not None
    folder = write_sweep(storage, name, trials, ended=False)
    lines = read_journal(folder)
    projection = Projection(servers.mlflow.uri, folder)
    projection.catch_up(lines[:1])
    began, own, theirs = time.perf_counter(), time.process_time(), servers.cpu_seconds()
    for count in range(1 + step, len(lines), step):
        projection.catch_up(lines[:count])
    projection.catch_up(lines, running=False)
    seconds = time.perf_counter() - began
    return {
        "trials": trials,
        "lines": len(lines),
        "seconds": round(seconds, 1),
        "trials_a_minute": round(60 * trials / seconds),
        "driver_cpu_seconds": round(time.process_time() - own, 1),
        "servers_cpu_seconds": round(servers.cpu_seconds() - theirs, 1),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch, record_servers(Path(scratch)) as servers:
        for number, (name, step) in enumerate(WAYS.items()):
            storage = Path(scratch) / f"runs-{number}"
            found[name] = measure(servers, storage, f"s{number}", asked.trials, step)
            print(name, found[name], flush=True)
    document = {
        **machine(("mlflow", "psycopg", "moto", "boto3")),
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "measured": found,
    }
    place = Path(__file__).with_suffix(".json")
    place.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
