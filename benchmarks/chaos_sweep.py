"""A small sweep for `benchmarks.chaos`: started as users start it, and read when it has ended.

Nothing of the program is imported: the sweep is a command, and what it left are a journal of JSON
lines, safetensors and MLflow's database.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.sweep_record import adapter_record, normalised

NAME = "chaos"
MARK = "ORCHESTRATOR_CHAOS"
"""Set for a command; whatever it starts inherits it, so that its processes can be told."""
SEEN_TWICE = {"base"}
"""Trials that may report the same place again: row 0 has no checkpoint, only its cache."""
EXECUTORS: dict[str, dict[str, Any]] = {
    "local": {"executor": "local"},
    "pool": {"executor": "pool", "members": 1, "slots": 3},
    "train": {"executor": "train", "workers": 1},
    "train-2": {"executor": "train", "workers": 2, "cpus_per_worker": 1},
}
"""Resources by the name that a fault is recorded under."""
TRIALS: list[dict[str, Any]] = [
    {"method.retention.kind": "none", "training.learning_rate": 0.02},
    {"method.retention.kind": "replay", "training.learning_rate": 0.01},
    {"method.adapter.kind": "curlora", "training.learning_rate": 0.02},
    {"method.retention.kind": "ewc", "method.retention.max_examples": 8},
]
"""What the sweep trains: other ways of remembering, and adapters of two families."""


@dataclass(frozen=True)
class Place:
    """Where a sweep runs."""

    root: Path
    """Has `base` and the tasks; each sweep has a storage folder of its own in it."""
    storage: Path
    file: Path
    mark: str
    words: tuple[str, ...] = ()
    """Options of its commands."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """What its processes are told besides."""
    first_on_path: str = ""
    """A folder that its Pythons look into first."""

    @property
    def folder(self) -> Path:
        """The sweep's."""
        return self.storage / NAME

    @property
    def journal(self) -> list[dict[str, Any]]:
        """What was written so far, without a torn end."""
        path = self.folder / "journal.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def prepare(root: Path) -> None:
    """Make up the base and the tasks.

    Args:
        root: A folder; what is there already is kept.
    """
    from tests.tiny import write_exact_base, write_tasks, write_training_text

    if not (root / "base").is_dir():
        root.mkdir(parents=True, exist_ok=True)
        write_exact_base(root / "base", dtype="float32")
        write_training_text(write_tasks(root))


def place(root: Path, name: str, executor: str, **fields: Any) -> Place:
    """A sweep with an empty storage folder.

    Args:
        root: As prepared.
        name: Of its storage folder.
        executor: One of `EXECUTORS`.
        fields: Of the experiment, beside or instead of the usual ones.

    Returns:
        Where it will run.
    """
    document = {
        "name": NAME,
        "model": {"name": str(root / "base")},
        "tasks": ["mood", "being"],
        "probes": ["prose"],
        "method": {"adapter": {"kind": "lora", "r": 4}},
        "training": {
            "batch_size": 8, "max_length": 48, "precision": "fp32", "learning_rate": 0.01,
            "epochs": 4,
        },
        "data": {
            "train_examples": 40, "validation_examples": 16, "probe_tokens": 100,
            "probe_context": 32, "rung_examples": 4,
        },
        # Drawn beforehand: what a searcher proposes may depend on who has reported first.
        "search": {
            "space": {"training.learning_rate": {"log_uniform": [0.001, 0.05]}},
            "first": TRIALS, "trials": len(TRIALS), "searcher": "random",
        },
        "champion": {"subject_to": {"probe_drift": 1.0}},
        "resources": EXECUTORS[executor],
        "storage": str(root / name),
        **fields,
    }  # fmt: skip
    file = root / f"{name}.yaml"
    file.write_text(json.dumps(document), encoding="utf-8")
    return Place(root, root / name, file, f"{name}-{os.getpid()}")


def start(at: Place, log: Path) -> subprocess.Popen[bytes]:
    """Give the command.

    Args:
        at: Where.
        log: What it prints is appended.

    Returns:
        The driver's process, in a session of its own.
    """
    temporary = at.root / "tmp"
    temporary.mkdir(exist_ok=True)
    path = [at.first_on_path, str(Path(__file__).parents[1])]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "TMPDIR": str(temporary), MARK: at.mark, **at.environment,
    }  # fmt: skip
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "sweep", str(at.file), *at.words],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env=environment,
        )  # fmt: skip


def marked(mark: str) -> list[psutil.Process]:
    """What a sweep's commands have started and is there.

    Args:
        mark: The sweep's.

    Returns:
        Processes that are not zombies.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def left_after(mark: str, seconds: float) -> list[str]:
    """What is still there after a while.

    Args:
        mark: The sweep's.
        seconds: How long to wait for the last to go.

    Returns:
        Command lines, shortened.
    """
    until = time.monotonic() + seconds
    while (there := marked(mark)) and time.monotonic() < until:
        time.sleep(0.5)
    lines = []
    for process in there:
        try:
            lines.append(" ".join(process.cmdline())[:80] or process.name())
        except psutil.NoSuchProcess:
            continue
    return lines


def end_all(mark: str) -> None:
    """End what a sweep has left, by id.

    Args:
        mark: The sweep's.
    """
    for process in marked(mark):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


# --- what came of it -----------------------------------------------------------------------------


def outcome(at: Place) -> dict[str, Any]:
    """What must not depend on faults: what was tried, learnt and concluded.

    Args:
        at: Where a sweep has ended.

    Returns:
        `verdict`, and of each trial its settings, state, losses, scores and adapter's bits.
    """
    trials: dict[str, dict[str, Any]] = {}
    verdict: dict[str, Any] = {}
    for line in at.journal:
        mine = trials.setdefault(line.get("trial", ""), {"reports": {}, "cells": {}})
        if line["event"] == "trial_proposed":
            mine["overrides"] = line["overrides"]
        elif line["event"] == "stage_report":
            report = normalised(line["report"], at.root)
            where = f"{report['task_index']}/{report['step']}/{report['fraction']}"
            mine["reports"][where] = report
        elif line["event"] == "cells_scored":
            mine["cells"][f"{line['learnt']}"] = normalised(line["scores"], at.root)
        elif line["event"] == "trial_ended":
            mine["state"] = line["state"]
            mine["measures"] = normalised(line["measures"], at.root)
            if line["adapter"]:
                mine["adapter"] = adapter_record(at.folder / line["adapter"])
        elif line["event"] == "sweep_ended":
            verdict = {key: line[key] for key in ("champion", "front", "runner_up", "reason")}
    trials.pop("", None)
    return {"verdict": verdict, "trials": trials}


def broken_promises(at: Place) -> list[str]:
    """What no sweep may leave, whatever happened to it.

    Args:
        at: Where a sweep has ended.

    Returns:
        Sentences; empty where all is well.
    """
    found, ended, reported = [], set(), set()
    for line in at.journal:
        trial, event = line.get("trial", ""), line["event"]
        if event in {"trial_started", "stage_report"} and trial in ended:
            found.append(f"{event} of {trial} after its end")
        if event == "trial_ended":
            if trial in ended:
                found.append(f"{trial} ended twice")
            ended.add(trial)
        if event == "stage_report" and trial not in SEEN_TWICE:
            report = line["report"]
            where = (trial, report["task_index"], report["step"], report["fraction"])
            if where in reported:
                found.append(f"{trial} reported step {where[2]} of task {where[1]} twice")
            reported.add(where)
    return found + _mlflow_faults(at)


def _mlflow_faults(at: Place) -> list[str]:
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(f"sqlite:///{at.storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(NAME)
    if experiment is None:
        return ["MLflow has no experiment"]
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    names = [str(run.info.run_name) for run in runs]
    found = [f"{names.count(name)} MLflow runs of {name}" for name in set(names)
             if names.count(name) > 1]  # fmt: skip
    found += [f"the MLflow run of {run.info.run_name} is {run.info.status}" for run in runs
              if run.info.status not in {"FINISHED", "FAILED"}]  # fmt: skip
    proposed = {line["trial"] for line in at.journal if line["event"] == "trial_proposed"}
    return found + [f"no MLflow run of {name}" for name in sorted(proposed - set(names))]


def last_event(lines: list[dict[str, Any]]) -> str:
    """Where a sweep was.

    Args:
        lines: Its journal.

    Returns:
        The last event in a word or two, "nothing" where there is no journal yet.
    """
    if not lines:
        return "nothing"
    line: Mapping[str, Any] = lines[-1]
    return " ".join([line["event"], line.get("trial", "")]).strip()
