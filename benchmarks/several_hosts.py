"""Sweeps over several hosts: what is learnt there, what they survive, and how long it takes.

    python benchmarks/several_hosts.py [CASE ...]

writes benchmarks/several_hosts.json; cases that are not named keep what they had. Hosts are
namespaces of this machine (`tests/hosts.py`, which needs root): each with an address, processes, a
name and a `/tmp` of its own, one switch between them, and one folder that all of them share. Each
case is compared with the same sweep on one host: states, measures and losses must be equal to the
last bit. "Silence" is the longest time without a line in the journal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results_page import machine
from tests.hosts import ENVIRONMENT, Host, RayOnHosts, hosts, missing, reported, wait_until
from tests.tiny import write_exact_base, write_tasks

CUT_SECONDS = 60.0
SLOW_KILOBITS = 2000
MOST_SILENT_SECONDS = 180.0
"""The stated time-out: two minutes in which Ray Train may try to place a group, and its start."""
LIMIT_SECONDS = 900.0
RATES = [0.02, 0.015, 0.01, 0.0075, 0.005, 0.0035, 0.002, 0.001]


@dataclass
class Scene:
    """A cluster on which a sweep runs."""

    machines: list[Host]
    cluster: RayOnHosts
    log: str


@dataclass(frozen=True)
class Case:
    """A sweep over several hosts."""

    resources: dict[str, Any]
    trials: int = 4
    epochs: int = 1
    deepspeed: bool = False
    strike: Callable[[Scene], str] | None = None
    """Done once a trial has reported; gives what was done."""
    before: Callable[[Scene], str] | None = None
    """Done once the cluster is there."""
    nodes: int = 2
    """Hosts beside the head that have a node when the sweep begins, of two."""
    kept: bool = False
    """Whether Ray is started again where its node has ended."""


def _cut(scene: Scene) -> str:
    """Cut a node off for a minute."""
    scene.machines[2].cut()
    threading.Timer(CUT_SECONDS, scene.machines[2].heal).start()
    return f"the link of {scene.machines[2].address} cut for {CUT_SECONDS:.0f} s"


def _kill_and_add(scene: Scene) -> str:
    """Lose the node that there is besides the head; another one comes."""
    scene.machines[1].kill()
    scene.cluster.add(scene.machines[2])
    return f"{scene.machines[1].address} killed, {scene.machines[2].address} added"


def _add(scene: Scene) -> str:
    scene.cluster.add(scene.machines[2])
    return f"{scene.machines[2].address} added"


def _slow(scene: Scene) -> str:
    scene.machines[2].slow(SLOW_KILOBITS)
    return f"the link of {scene.machines[2].address} passes {SLOW_KILOBITS} kbit/s"


POOL: dict[str, Any] = {"executor": "pool", "slots": 2}
PAIR: dict[str, Any] = {"workers": 2, "cpus_per_worker": 1}
CASES = {
    "packed": Case(POOL, trials=8),
    "zero3": Case({"executor": "train", **PAIR}, trials=2, deepspeed=True),
    "group": Case({**POOL, **PAIR}),
    "node-added": Case(POOL, epochs=150, strike=_add, nodes=1),
    "node-killed-and-added": Case(POOL, epochs=150, strike=_kill_and_add, nodes=1),
    "link-cut": Case(POOL, epochs=150, strike=_cut, kept=True),
    "link-cut-of-a-group": Case({**POOL, **PAIR}, trials=2, epochs=150, strike=_cut, kept=True),
    "link-cut-zero3": Case(
        {"executor": "train", **PAIR}, trials=2, epochs=100, deepspeed=True, strike=_cut, kept=True
    ),
    "link-slow": Case(POOL, trials=8, before=_slow),
    "link-slow-of-a-group": Case({**POOL, **PAIR}, trials=2, before=_slow),
}


def document(shared: Path, name: str, case: Case) -> Path:
    """Write the experiment of a case; its trials are the first ones of a grid of learning rates."""
    training: dict[str, Any] = {
        "learning_rate": 0.02, "batch_size": 8, "max_length": 48, "precision": "fp32",
        "epochs": case.epochs,
    }  # fmt: skip
    if case.deepspeed:
        training["deepspeed"] = {"zero_optimization": {"stage": 3}}
    file = shared / "experiments" / f"{name}.yaml"
    file.write_text(
        yaml.safe_dump({
            "name": name,
            "model": {"name": str(shared / "base")},
            "tasks": ["mood", "being"],
            "probes": [],
            "method": {"adapter": {"kind": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}},
            "training": training,
            "data": {"train_examples": 16, "validation_examples": 12, "rung_examples": 6},
            "objectives": {"gain": "max"},
            "champion": {"maximize": "gain", "subject_to": {}},
            "search": {
                "space": {"training.learning_rate": {"choice": RATES[: case.trials]}},
                "searcher": "grid", "trials": case.trials,
            },
            "resources": case.resources,
            "storage": str(shared / "runs"),
        }, sort_keys=False)
    )  # fmt: skip
    return file


def journal(shared: Path, name: str) -> list[dict[str, Any]]:
    """What a sweep has written so far, without a torn end."""
    file = shared / "runs" / name / "journal.jsonl"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def prepare(shared: Path) -> None:
    """Make up the base and the tasks."""
    shared.mkdir(exist_ok=True)
    write_exact_base(shared / "base", "float32")
    (shared / "experiments").mkdir()
    write_tasks(shared / "experiments")


def alone(folder: Path, name: str, case: Case, executor: str | None = None) -> dict[str, Any]:
    """The same sweep on this machine alone, which starts a Ray of its own.

    Args:
        folder: Prepared.
        name: Of the sweep.
        case: What it learns.
        executor: None: that of the case.

    Returns:
        What its trials came to.
    """
    if executor is not None:
        case = replace(case, resources={"executor": executor})
    file = document(folder, name, case)
    command = [sys.executable, "-m", "orchestrator", "sweep", str(file)]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS, cwd=folder,
        env=environment,
    )  # fmt: skip
    lines = journal(folder, name)
    assert any(line["event"] == "sweep_ended" for line in lines), done.stderr[-4000:]
    return reported(lines)


def run(folder: Path, name: str, case: Case) -> dict[str, Any]:
    """Run a case over hosts.

    Args:
        folder: An empty one.
        name: Of the sweep.
        case: What runs.

    Returns:
        What was seen.
    """
    with hosts(folder, 3) as machines:
        shared = machines[0].shared
        prepare(shared)
        file = document(shared, name, case)
        cluster = RayOnHosts(machines, nodes=machines[1 : 1 + case.nodes], kept=case.kept)
        scene = Scene(machines, cluster, f"{name}.log")
        done = [] if case.before is None else [case.before(scene)]
        started = time.monotonic()
        process = cluster.sweep(file, log=scene.log)
        if case.strike is not None:
            wait_until(
                lambda: process.poll() is not None or _begun(journal(shared, name)),
                LIMIT_SECONDS, lambda: machines[0].said(scene.log),
            )  # fmt: skip
            done.append(f"after {time.monotonic() - started:.0f} s: {case.strike(scene)}")
        try:
            code = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = "hangs"
        return {
            "code": code, "done": done, "lines": journal(shared, name),
            "said": machines[0].said(scene.log), "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip


def _begun(lines: list[dict[str, Any]]) -> bool:
    """Whether two trials have come to a rung or the end of a task, and so are at work."""
    return len({line["trial"] for line in lines if line["event"] == "stage_report"} - {"base"}) > 1


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def silence(lines: list[dict[str, Any]]) -> float:
    """The longest time between two lines of a journal."""
    times = [line["time"] for line in lines]
    return round(max((b - a for a, b in pairwise(times)), default=0.0), 1)


def twice(lines: list[dict[str, Any]]) -> list[str]:
    """What a journal says more than once of a trial: its end, or a place that it has come to."""
    seen: dict[tuple[Any, ...], int] = {}
    for line in lines:
        if line["event"] == "trial_ended":
            key = ("ended", line["trial"])
        elif line["event"] == "stage_report" and line["trial"] != "base":
            report = line["report"]
            key = ("report", line["trial"], report["task"], report["fraction"])
        else:
            continue
        seen[key] = seen.get(key, 0) + 1
    return [" ".join(map(str, key)) for key, count in seen.items() if count > 1]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """In what trials came to something else: the first part of each that is not the same."""
    found = [f"{name}: not in both" for name in sorted(one.keys() ^ other.keys())]
    for name in sorted(one.keys() & other.keys()):
        (ended, losses), (ended_too, losses_too) = one[name], other[name]
        for what, a, b in (("ended", ended, ended_too), ("losses", losses, losses_too)):
            if a != b:
                found.append(f"{name}: {what} {str(a)[:200]} and {str(b)[:200]}")
    return found


def measure(name: str, case: Case, folder: Path, alike: dict[str, Any]) -> dict[str, Any]:
    """Run a case.

    Args:
        name: Its own.
        case: What runs.
        folder: An empty one.
        alike: What sweeps come to without hosts, by what they train; added to.

    Returns:
        The row of the result.
    """
    key = f"{case.trials} {case.epochs} {case.deepspeed} {case.resources.get('workers', 1)}"
    if key not in alike:
        prepare(folder / "alone")
        alike[key] = alone(folder / "alone", name, case)
    cpu = _cpu_seconds()
    (folder / "many").mkdir()
    many = run(folder / "many", name, case)
    faults = [line for line in many["lines"] if line["event"] == "fault_survived"]
    row = {
        "done": many["done"], "exit_code": many["code"], "trials": case.trials,
        "different": differences(alike[key], reported(many["lines"])),
        "twice": twice(many["lines"]),
        "survived": [f"{line['what']} ({line['where']}): {line['because']}" for line in faults],
        "silence_seconds": silence(many["lines"]), "seconds": many["seconds"],
        "cpu_seconds": round(_cpu_seconds() - cpu, 1),
        "load_average": [round(one, 1) for one in os.getloadavg()],
    }  # fmt: skip
    row["good"] = (
        row["exit_code"] == 0 and not row["different"] and not row["twice"]
        and row["silence_seconds"] <= MOST_SILENT_SECONDS
    )  # fmt: skip
    if not row["good"]:
        print(many["said"][-6000:], file=sys.stderr)
    return row


def main() -> None:
    """Run the cases and write what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    asked = parser.parse_args().cases or list(CASES)
    if why := missing():
        sys.exit(f"No hosts can be made: {why}.")
    alike: dict[str, Any] = {}
    good = True
    for name in asked:
        with tempfile.TemporaryDirectory(prefix="hosts-") as scratch:
            row = measure(name, CASES[name], Path(scratch), alike)
        print(name, json.dumps(row), flush=True)
        write(name, row)
        good = good and row["good"]
    sys.exit(not good)


def write(name: str, row: dict[str, Any]) -> None:
    """Put a case into the file of results, where the others stay."""
    place = Path(__file__).with_suffix(".json")
    text = place.read_text(encoding="utf-8") if place.is_file() else '{"cases": {}}'
    rows = {**json.loads(text)["cases"], name: row}
    document = {
        **machine(("torch", "ray", "deepspeed")),
        "cases": {key: rows[key] for key in CASES if key in rows},
    }
    place.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
