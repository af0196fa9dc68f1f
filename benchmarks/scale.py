"""What a sweep of a thousand trials, and one of ten thousand, ask of the driver and the machine.

    .venv/bin/python -m benchmarks.scale sweep               # 1,000 trials of 30 s, 64 at a time
    .venv/bin/python -m benchmarks.scale sweep --in-flight 256 --trials 1024 --seconds 60
    .venv/bin/python -m benchmarks.scale sweep --members 4 16    # what a member costs the driver
    .venv/bin/python -m benchmarks.scale driver --trials 600     # its own CPU time, without Ray
    .venv/bin/python -m benchmarks.scale reopen              # 10,000 trials in the journal
    .venv/bin/python -m benchmarks.scale ... --write         # keep it in scale.json

Trials sleep (`sleeping_trials.py`) and report four times; everything else is a sweep's own: Ray,
the pool, TPE over four settings and two objectives, the journal, cards of adapters, MLflow in
SQLite.

`sweep` divides the time from the first trial's start to the last one's end by the ideal: trials
times seconds, by as many as run at a time. CPU time and memory (PSS) are those of processes,
sampled from outside: the driver; the members, whose trials sleep; Ray's own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.results_page import ROOT, machine

if TYPE_CHECKING:
    from orchestrator.records.event import Event

RECORD = ROOT / "benchmarks" / "scale.json"
SAMPLE_SECONDS = 5.0
NAME = "scale"


def experiment_file(root: Path, *, trials: int, in_flight: int, members: int) -> Path:
    """Write the experiment of a sweep over the made-up base and tasks.

    Args:
        root: What `sleeping_trials.prepare` has filled.
        trials: How many.
        in_flight: How many at a time.
        members: Among how many members.

    Returns:
        The file.
    """
    import yaml

    document = {
        "name": NAME, "model": {"name": str(root / "base")}, "tasks": ["first", "second"],
        "method": {"adapter": {"kind": "lora", "r": 4, "target_modules": ["q_proj"]}},
        "training": {"precision": "fp32", "max_length": 32},
        "objectives": {"gain": "max", "forgetting": "min"},
        "champion": {"maximize": "gain", "subject_to": {}},
        "search": {
            "space": {
                "training.learning_rate": {"log_uniform": [1e-4, 1e-1]},
                "training.weight_decay": {"uniform": [0.0, 0.1]},
                "training.batch_size": {"choice": [4, 8, 16]},
                "training.schedule": {"choice": ["constant", "linear", "cosine"]},
            },
            "searcher": "tpe", "trials": trials, "max_concurrent": in_flight,
        },
        "resources": {"executor": "pool", "members": members, "slots": -(-in_flight // members)},
        "storage": str(root / "runs"),
    }  # fmt: skip
    path = root / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------- the driver's side


def drive(root: Path, *, seconds: float, cores: int, profile: Path | None) -> None:
    """Run the sweep of a folder in this process, with trials that sleep.

    Args:
        root: Its `scale.yaml` is the experiment.
        seconds: How long a trial sleeps.
        cores: How many CPUs Ray is told of: one for each member.
        profile: Where to write what this thread's time went to; None: nowhere.
    """
    import cProfile

    from benchmarks.sleeping_trials import in_place_of_members
    from orchestrator.cli.console import make_console
    from orchestrator.cli.output.live import LiveDisplay
    from orchestrator.executors import ray_settings
    from orchestrator.spec.load import load_experiment
    from orchestrator.sweep.run import run_sweep
    from orchestrator.sweep.run_options import SweepOptions

    in_place_of_members(seconds, root / "template")
    ray_settings.usable_cores = lambda: cores
    profiler = cProfile.Profile()
    loaded = load_experiment(root / f"{NAME}.yaml")
    with LiveDisplay(make_console(stderr=True)) as shown:
        if profile is not None:
            profiler.enable()
        run_sweep(loaded, SweepOptions(), shown)
        profiler.disable()
    if profile is not None:
        profiler.dump_stats(profile)


# -------------------------------------------------------------------------------- seen from outside


def kind_of(process: psutil.Process, driver: int) -> str:
    """What a process is: `driver`, `members`, or one of Ray's own by its name."""
    if process.pid == driver:
        return "driver"
    words = " ".join(process.cmdline())
    if "SleepingMember" in words:
        return "members"
    for name in ("gcs_server", "raylet", "dashboard", "agent", "log_monitor", "monitor"):
        if name in words.lower():
            return f"ray {name}"
    return "ray idle workers"


class Samples(threading.Thread):
    """CPU time and memory of a driver and all that it has started, every few seconds."""

    def __init__(self, driver: int) -> None:
        """Begin.

        Args:
            driver: Its process.
        """
        super().__init__(daemon=True)
        self._driver, self._over = driver, threading.Event()
        self.cpu: dict[int, tuple[str, float]] = {}
        self.pss: dict[str, list[float]] = defaultdict(list)
        self.course: list[tuple[float, float, float]] = []
        """Seconds since the epoch, MiB of the driver, its CPU seconds."""
        self.loads: list[float] = []

    def run(self) -> None:
        """Sample until it is stopped."""
        while not self._over.wait(SAMPLE_SECONDS):
            self.take()

    def take(self) -> None:
        """Take one sample."""
        found: dict[str, float] = defaultdict(float)
        try:
            driver = psutil.Process(self._driver)
            processes = [driver, *driver.children(recursive=True)]
        except psutil.Error:
            return
        for process in processes:
            try:
                kind = kind_of(process, self._driver)
                times, memory = process.cpu_times(), process.memory_full_info()
            except (psutil.Error, OSError):
                continue
            self.cpu[process.pid] = (kind, times.user + times.system)
            found[kind] += memory.pss / 2**20
            if kind == "driver":
                self.course.append((time.time(), memory.pss / 2**20, times.user + times.system))
        for kind, size in found.items():
            self.pss[kind].append(size)
        self.loads.append(os.getloadavg()[0])

    def stop(self) -> None:
        """Take no more."""
        self._over.set()
        self.join()

    def cores(self, seconds: float) -> dict[str, float]:
        """CPU seconds a second, by kind of process."""
        found: dict[str, float] = defaultdict(float)
        for kind, used in self.cpu.values():
            found[kind] += used / seconds
        return dict(found)


def read_lines(journal: Path) -> list[dict[str, Any]]:
    """The lines of a journal."""
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]


def measure_sweep(given: argparse.Namespace, members: int) -> dict[str, Any]:
    """Run one sweep of trials that sleep, and look at it from outside.

    Args:
        given: `trials`, `seconds`, `in_flight` and `profile`.
        members: Of the pool.

    Returns:
        What was measured.
    """
    from benchmarks.sleeping_trials import prepare

    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        root = Path(scratch)
        prepare(root)
        experiment_file(root, trials=given.trials, in_flight=given.in_flight, members=members)
        words = ["drive", str(root), "--seconds", str(given.seconds), "--members", str(members)]
        if given.profile:
            words += ["--profile", str(given.profile)]
        began = time.time()
        with (root / "log.txt").open("w") as log:
            driver = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scale", *words], cwd=ROOT, stderr=log
            )
            samples = Samples(driver.pid)
            samples.start()
            status = driver.wait()
            samples.stop()
        whole = time.time() - began
        if status:
            sys.exit((root / "log.txt").read_text()[-4000:])
        lines = read_lines(root / "runs" / NAME / "journal.jsonl")
        return _found(given, members, lines, samples, whole)


def _found(
    given: argparse.Namespace,
    members: int,
    lines: Sequence[dict[str, Any]],
    samples: Samples,
    whole: float,
) -> dict[str, Any]:
    own = [line for line in lines if line.get("trial") not in {None, "base"}]
    first = min(line["time"] for line in own if line["event"] == "trial_started")
    last = max(line["time"] for line in own if line["event"] == "trial_ended")
    verdict = next(line["time"] for line in lines if line["event"] == "sweep_ended")
    states = [line["state"] for line in own if line["event"] == "trial_ended"]
    ideal = given.trials * given.seconds / given.in_flight
    within = [each for each in samples.course if first <= each[0] <= last]
    growth = [_slope(within, 1), _slope(within, 2)] if len(within) > 2 else [0.0, 0.0]
    rate = given.trials / (last - first)
    return {
        "what": "sweep", "trials": given.trials, "seconds": given.seconds,
        "in_flight": given.in_flight, "members": members, "lines": len(lines),
        "complete": states.count("COMPLETE"), "took": round(last - first, 1),
        "ideal": round(ideal, 1), "ratio": round((last - first) / ideal, 3),
        "whole": round(whole, 1), "verdict_after": round(verdict - last, 1),
        "rest_after": round(lines[-1]["time"] - verdict, 1),
        "cores": {k: round(v, 3) for k, v in sorted(samples.cores(whole).items())},
        "driver_cores_while_running": round(growth[1], 3),
        "pss_mib": {k: round(max(v)) for k, v in sorted(samples.pss.items())},
        "driver_mib": [round(e[1]) for e in (within[0], within[-1])] if within else [],
        "driver_kib_per_trial": round(1024 * growth[0] / rate, 1),
        "load": [round(f(samples.loads), 1) for f in (min, max)],
        **machine(("ray", "mlflow", "optuna")),
    }  # fmt: skip


def _slope(course: Sequence[tuple[float, float, float]], column: int) -> float:
    """By how much a column grows each second, by least squares."""
    times, values = [each[0] for each in course], [each[column] for each in course]
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    above = sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True))
    return above / sum((t - middle) ** 2 for t in times)


# ------------------------------------------------------------------------ the driver's own CPU time


def made_up_driver(root: Path, trials: int, in_flight: int) -> Any:
    """A driver of a sweep over made-up data, without a Ray; its journal is new.

    Args:
        root: A folder that is there.
        trials: Of the sweep.
        in_flight: At a time.

    Returns:
        The driver.
    """
    from types import SimpleNamespace

    from benchmarks.sleeping_trials import TASKS
    from orchestrator.cli.console import make_console
    from orchestrator.cli.output.live import LiveDisplay
    from orchestrator.data.prepared import PreparedTask
    from orchestrator.records.events import SweepOpened
    from orchestrator.records.journal import Journal
    from orchestrator.spec.load import load_experiment
    from orchestrator.sweep.deciding.known import Known
    from orchestrator.sweep.driver import Driver
    from orchestrator.sweep.protocols import Capacity

    for name in TASKS:
        (root / "tasks").mkdir(exist_ok=True)
        (root / "tasks" / f"{name}.yaml").write_text(
            f"name: {name}\nkind: classification\ndata: {{files: .}}\nprompt: '{{text}}'\n"
            "labels: {'yes': ' yes', 'no': ' no'}\n",
            encoding="utf-8",
        )
    file = experiment_file(root, trials=trials, in_flight=in_flight, members=1)
    loaded = load_experiment(file)
    known = {"majority_label": "no"}
    tasks = {
        name: PreparedTask(name, loaded.tasks[name], (), (), (), ("no", "yes"), known)
        for name in TASKS
    }
    data: Any = SimpleNamespace(
        tasks=tasks, controls={n: {} for n in TASKS}, hashes=dict.fromkeys(TASKS, "made-up")
    )
    journal, shown = Journal(root / "runs" / NAME), LiveDisplay(make_console(stderr=True))
    document = loaded.experiment.model_dump(mode="json")
    opened = SweepOpened(sweep=NAME, sweep_id=NAME, experiment=document, provenance={})
    shown.event(journal.append(opened), replayed=True)
    driver = Driver(loaded, journal, shown, data, known=Known(follows_from={}))
    driver.admission.capacity = Capacity(trials=in_flight)
    return driver


def measure_driver(trials: int, in_flight: int) -> dict[str, Any]:
    """What a trial costs the driver's thread: proposed, started, four reports, ended, shown.

    Args:
        trials: Of the sweep.
        in_flight: At a time.

    Returns:
        CPU milliseconds of this process for a trial, of the first and of the last tenth of all;
        and by how much its memory has grown for each, in KiB.
    """
    from benchmarks.sleeping_trials import FRACTIONS, TASKS, stage_report
    from orchestrator.executors.job import Job
    from orchestrator.executors.messages import Reported

    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        driver = made_up_driver(Path(scratch), trials, in_flight)
        running: list[str] = []
        times, sizes = [time.process_time()], [psutil.Process().memory_info().rss]
        while True:
            while isinstance(job := driver.next_job(), Job):
                running.append(job.trial)
            if not running:
                break
            name = running.pop(0)
            places = [(i, f) for i in range(len(TASKS)) for f in FRACTIONS]
            for place in [(-1, 1.0)] if name == "base" else places:
                driver.hear(name, Reported(stage_report(name, *place)))
                driver.next_job()
            driver.ended(name, error=False)
            times.append(time.process_time())
            sizes.append(psutil.Process().memory_info().rss)
        before = time.process_time()
        driver.judgement.contenders()
        driver.judgement.conclude()
        verdict = time.process_time() - before
        driver.journal.close()
    tenth = max(1, trials // 10)
    return {
        "what": "driver", "trials": trials, "in_flight": in_flight,
        "first_ms": round(1000 * (times[tenth] - times[0]) / tenth, 1),
        "last_ms": round(1000 * (times[-1] - times[-1 - tenth]) / tenth, 1),
        "mean_ms": round(1000 * (times[-1] - times[0]) / trials, 1),
        "kib_per_trial": round((sizes[-1] - sizes[tenth]) / 1024 / (trials - tenth), 1),
        "verdict_s": round(verdict, 2),
        "load": round(os.getloadavg()[0], 1), **machine(("ray", "mlflow", "optuna")),
    }  # fmt: skip


# ------------------------------------------------------------------------------------- opened again


def begin(root: Path) -> list[dict[str, Any]]:
    """Run a sweep of two trials, so that there is a journal; give its lines."""
    from benchmarks.sleeping_trials import prepare

    prepare(root)
    experiment_file(root, trials=2, in_flight=2, members=1)
    words = ["drive", str(root), "--seconds", "0.5"]
    subprocess.run([sys.executable, "-m", "benchmarks.scale", *words], cwd=ROOT, check=True)
    return read_lines(root / "runs" / NAME / "journal.jsonl")


def further_events(lines: Sequence[dict[str, Any]], trials: int) -> Iterator[Event]:
    """What a journal holds of so many more trials, like its first one but for their scores.

    Args:
        lines: A journal with a whole trial `t001`.
        trials: How many more.

    Yields:
        Events, without number and time.
    """
    from benchmarks.sleeping_trials import FRACTIONS, TASKS, stage_report
    from orchestrator.records.events import (
        StageReported,
        TrialEnded,
        TrialProposed,
        TrialStarted,
        read_event,
    )

    ended = next(
        line for line in lines if line["event"] == "trial_ended" and line["trial"] == "t001"
    )
    began = next(
        line for line in lines if line["event"] == "trial_started" and line["trial"] == "t001"
    )
    example = read_event(ended)
    assert isinstance(example, TrialEnded)
    chance = random.Random(0)
    for number in range(3, trials + 1):
        name = f"t{number:03d}"
        overrides = {
            "training.learning_rate": 10 ** chance.uniform(-4, -1),
            "training.weight_decay": chance.uniform(0, 0.1),
            "training.batch_size": chance.choice([4, 8, 16]),
            "training.schedule": chance.choice(["constant", "linear", "cosine"]),
        }
        yield TrialProposed(name, overrides, "tpe")
        yield TrialStarted(name, 1, began["versions"])
        for index in range(len(TASKS)):
            for fraction in FRACTIONS:
                yield StageReported(name, stage_report(name, index, fraction))
        measures = dict(example.measures or {})
        measures |= {"gain": chance.uniform(-0.15, 0.0), "forgetting": chance.uniform(-0.1, 0.1)}
        yield replace(example, trial=name, measures=measures, adapter=None, adapter_sha256=None,
                      carried=None, carried_sha256=None, carried_bytes=None)  # fmt: skip


def append(folder: Path, events: Iterable[Event]) -> int:
    """Add events to a journal without waiting for the disk.

    Args:
        folder: The sweep's.
        events: What happens, a second each.

    Returns:
        How many lines it has.
    """
    from orchestrator.records.journal_lines import JOURNAL_NAME, sealed
    from orchestrator.system.strict_json import without_nan

    path = folder / JOURNAL_NAME
    held = path.read_bytes().splitlines()
    before, count, now = held[-1], len(held), json.loads(held[-1])["time"]
    with path.open("ab") as file:
        for event in events:
            now += 1.0
            stamped = without_nan({**event.to_line(), "n": count, "time": round(now, 3)})
            before = sealed(json.dumps(stamped, separators=(",", ":")).encode(), before)
            file.write(before + b"\n")
            count += 1
    return count


class Times:
    """An observer that notes when what is said; once a new trial has started, it tells and ends."""

    def __init__(self) -> None:
        self.began, self.cpu = time.monotonic(), time.process_time()
        self.notes: list[tuple[float, str]] = []

    def note(self, text: str) -> None:
        """Note it."""
        self.notes.append((time.monotonic() - self.began, text))

    def event(self, event: Event, *, replayed: bool = False) -> None:
        """Tell what it took, and end this process with its Ray."""
        if replayed or event.name != "trial_started":
            return
        first, cpu = time.monotonic() - self.began, time.process_time() - self.cpu
        starts = next(at for at, text in self.notes if text.startswith("starting Ray"))
        there = next(at for at, text in self.notes if "at a time" in text)
        found = {
            "before_ray": round(starts, 2), "starting_ray": round(there - starts, 2),
            "after_ray": round(first - there, 2), "opening": round(first - (there - starts), 2),
            "driver_cpu": round(cpu, 2),
            "driver_mib": round(psutil.Process().memory_full_info().pss / 2**20),
        }  # fmt: skip
        print(json.dumps(found), flush=True)
        # MLflow would be written now: it has none of these trials.
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(0)

    def progress(self, trial: str, progress: dict[str, Any]) -> None:
        """Leave it out."""


def open_again(root: Path) -> None:
    """Go on with the sweep of a folder until it starts a trial; print what that took."""
    from benchmarks.sleeping_trials import in_place_of_members
    from orchestrator.executors.worker_group import leave_out_quantisers
    from orchestrator.spec.load import load_experiment
    from orchestrator.sweep.run import run_sweep
    from orchestrator.sweep.run_options import SweepOptions

    in_place_of_members(30.0, root / "template")
    loaded = load_experiment(root / f"{NAME}.yaml")
    leave_out_quantisers(loaded.experiment)  # as `orchestrate sweep` does
    run_sweep(loaded, SweepOptions(), Times())


def measure_reopen(trials: int) -> dict[str, Any]:
    """Open a sweep again that has so many trials in its journal.

    Args:
        trials: How many, at least 2.

    Returns:
        Seconds from the call to the first new trial: before Ray is started, for Ray, and after it;
        `opening` is without Ray. And the driver's CPU seconds and memory until then.
    """
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        root = Path(scratch)
        lines = begin(root)
        folder = root / "runs" / NAME
        count = append(folder, further_events(lines, trials)) if trials > 2 else len(lines)
        # Their cards were written when they ended.
        (folder / "trials" / "cards.json").write_text(json.dumps({"line": count - 1}))
        experiment_file(root, trials=trials + 4, in_flight=2, members=1)
        words = [sys.executable, "-m", "benchmarks.scale", "open", str(root)]
        answer = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        return {
            "what": "reopen", "trials": trials, "lines": count,
            "journal_mib": round((folder / "journal.jsonl").stat().st_size / 2**20, 1),
            **json.loads(answer.stdout.splitlines()[-1]),
            "load": round(os.getloadavg()[0], 1), **machine(("ray", "mlflow", "optuna")),
        }  # fmt: skip


def keep(found: dict[str, Any]) -> None:
    """Put a measurement in the place of the earlier one of the same kind."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else []
    names = ("what", "trials", "seconds", "in_flight", "members")
    kept = {tuple(x.get(n) for n in names): x for x in [*record, found]}
    RECORD.write_text(json.dumps(list(kept.values()), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=["sweep", "driver", "reopen", "drive", "open"])
    parser.add_argument("root", nargs="?", type=Path, help="of `drive` and `open`")
    parser.add_argument("--trials", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each trial takes")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--members", type=int, nargs="+", default=[1])
    parser.add_argument("--profile", type=Path, default=None)
    parser.add_argument("--write", action="store_true", help="keep the record")
    given = parser.parse_args()
    if given.part == "drive":
        cores = max(2, given.members[0])
        drive(given.root, seconds=given.seconds, cores=cores, profile=given.profile)
        return
    if given.part == "open":
        open_again(given.root)
        return
    if given.part == "driver":
        results = (measure_driver(given.trials or 600, given.in_flight) for _ in range(1))
    elif given.part == "reopen":
        results = (measure_reopen(n) for n in (2, given.trials or 10_000))
    else:
        given.trials = given.trials or 1000
        results = (measure_sweep(given, members) for members in given.members)
    for found in results:
        print(json.dumps(found, indent=1), flush=True)
        if given.write:
            keep(found)


if __name__ == "__main__":
    main()
