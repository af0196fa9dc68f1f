"""What the cards of adapters cost the driver of a sweep: milliseconds a trial.

    .venv/bin/python benchmarks/card_cost.py [--trials 300] [--repeats 5]

The events of a synthetic sweep (`synthetic_journals.py`, three tasks, so three cards a trial) are
taken in with and without a `CardWriter`, in turn; cards are written on this machine's disk.
`thread` is CPU time of the driver's own thread, which trials wait for; `process` that of both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from synthetic_journals import BEGUN, sweep_events

from orchestrator.records.event import Event
from orchestrator.records.events import read_event
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState
from orchestrator.sweep.deciding.card_writer import CardWriter


def spent(events: Sequence[Event], *, cards: bool) -> tuple[float, float]:
    """CPU seconds of the driver's thread and of the process."""
    with tempfile.TemporaryDirectory() as place:
        folder = SweepFolder(Path(place) / "sweep")
        folder.trials.mkdir(parents=True)
        state = SweepState(whole=False)
        writer = CardWriter(folder, state)
        thread, process = time.thread_time(), time.process_time()
        with writer.following([], print):
            for event in events:
                state.take(event)
                if cards:
                    writer.take(event)
        return time.thread_time() - thread, time.process_time() - process


def measured(trials: int, repeats: int) -> dict[str, float]:
    """Milliseconds a trial that cards add: the median over pairs of runs with and without them."""
    stamped = enumerate(sweep_events("cards", trials))
    events = [read_event({"n": n, "time": BEGUN + n, **event.to_line()}) for n, event in stamped]
    added = [
        [
            1000 * (own - alone) / trials
            for own, alone in zip(
                spent(events, cards=True), spent(events, cards=False), strict=True
            )
        ]
        for _ in range(repeats)
    ]
    thread, process = (statistics.median(pair[side] for pair in added) for side in (0, 1))
    return {"trials": trials, "thread_ms": round(thread, 2), "process_ms": round(process, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    print(json.dumps(measured(asked.trials, asked.repeats), indent=1))


if __name__ == "__main__":
    main()
