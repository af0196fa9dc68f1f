"""Faults that `benchmarks.chaos` inflicts on a running sweep, each once at a chosen moment."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import chaos_worlds as worlds
from benchmarks.chaos_sweep import Place, end_all, marked, start

DRIVER = "driver"
"""The fault that may strike one sweep up to ten times; all others strike once."""
SLOW_SECONDS = 40.0
"""How long a process is slow."""


@dataclass(frozen=True)
class Running:
    """A sweep whose command has been given."""

    at: Place
    driver: subprocess.Popen[bytes]
    log: Path
    """What its commands print."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to a sweep."""

    what: str
    """A noun phrase for the page of results."""
    executors: tuple[str, ...]
    strike: Callable[[Running], str]
    """Returns what was done, or "" if there was nothing to strike."""
    goes_on: bool
    """Whether the same command must end well; else it may end with a message, and is repeated."""
    world: Callable[[Place], AbstractContextManager[Place]] = nullcontext
    """What the sweep depends on, made for it alone."""
    mend: Callable[[Place], None] = lambda _: None
    """Done whenever a command has ended."""


def _named(at: Place, words: tuple[str, ...]) -> psutil.Process | None:
    """A process of the sweep whose command line begins with, or has, one of some words."""
    for process in marked(at.mark):
        try:
            line = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        title = line[0] if line else ""
        if any(word in title for word in words):
            return process
    return None


def _to_one(number: signal.Signals, *words: str) -> Callable[[Running], str]:
    """A signal to the first process of which a word stands in the title."""

    def strike(run: Running) -> str:
        target = _named(run.at, words)
        if target is None:
            return ""
        title = target.cmdline()[0]
        target.send_signal(number)
        return f"{number.name} of {Path(title).name[:60]}"

    return strike


def _kill_driver(run: Running) -> str:
    run.driver.send_signal(signal.SIGKILL)
    run.driver.wait()
    return "SIGKILL of the driver"


def _preempt(run: Running) -> str:
    """SIGTERM, and ten seconds later SIGKILL to whatever is still there."""
    run.driver.send_signal(signal.SIGTERM)
    try:
        run.driver.wait(10)
    except subprocess.TimeoutExpired:
        end_all(run.at.mark)
        run.driver.wait()
        return "SIGTERM, SIGKILL of all ten seconds later"
    return f"SIGTERM, gone within ten seconds with exit code {run.driver.returncode}"


def _second_driver(run: Running) -> str:
    """The same command once more, while the first runs."""
    second = start(run.at, run.log.with_suffix(".second"))
    code = second.wait()
    if run.driver.poll() is None and code == 0:
        raise AssertionError("a second driver ran beside the first")
    return f"a second driver, which ended with exit code {code}"


def _slow_down(*words: str) -> Callable[[Running], str]:
    """Let a process run for a fifth of the time, as beside others on a busy node."""

    def strike(run: Running) -> str:
        target = _named(run.at, words)
        if target is None:
            return ""

        def slow() -> None:
            until = time.monotonic() + SLOW_SECONDS
            with suppress(psutil.NoSuchProcess):
                while time.monotonic() < until:
                    target.suspend()
                    time.sleep(0.8)
                    target.resume()
                    time.sleep(0.2)

        threading.Thread(target=slow, daemon=True).start()
        return f"{Path(target.cmdline()[0]).name[:60]} at a fifth of its speed for {SLOW_SECONDS} s"

    return strike


def _to_world(what: Callable[[Place], str]) -> Callable[[Running], str]:
    return lambda run: what(run.at)


KILL, STOP = signal.SIGKILL, signal.SIGSTOP
RAY = ("pool", "train", "train-2")
FAULTS: dict[str, Fault] = {
    DRIVER: Fault("SIGKILL of the driver", ("local", *RAY), _kill_driver, goes_on=False),
    "preemption": Fault(
        "SIGTERM with ten seconds to live", ("local", *RAY), _preempt, goes_on=False
    ),
    "second": Fault("a second driver", ("local", *RAY), _second_driver, goes_on=True),
    "member": Fault("SIGKILL of a member with trials in it", ("pool",),
                    _to_one(KILL, "ray::LoneMember"), goes_on=True),
    "worker": Fault("SIGKILL of a worker that trains", ("train", "train-2"),
                    _to_one(KILL, "ray::RayTrainWorker"), goes_on=True),
    "controller": Fault("SIGKILL of Ray Train's controller", ("train", "train-2"),
                        _to_one(KILL, "ray::TrainController"), goes_on=True),
    "trial": Fault("SIGKILL of a trial's own process", ("train", "train-2"),
                   _to_one(KILL, "ray::TrainTrial"), goes_on=True),
    "raylet": Fault("SIGKILL of the raylet", RAY, _to_one(KILL, "raylet/raylet"), goes_on=False),
    "gcs": Fault("SIGKILL of Ray's GCS", RAY, _to_one(KILL, "gcs/gcs_server"), goes_on=False),
    "hung-member": Fault("a member that hangs", ("pool",),
                         _to_one(STOP, "ray::LoneMember"), goes_on=True),
    "hung-worker": Fault("a worker that hangs", ("train", "train-2"),
                         _to_one(STOP, "ray::RayTrainWorker"), goes_on=True),
    "slow-member": Fault("a member that is slow", ("pool",),
                         _slow_down("ray::LoneMember"), goes_on=True),
    "slow-worker": Fault("a worker that is slow", ("train", "train-2"),
                         _slow_down("ray::RayTrainWorker"), goes_on=True),
    "read-only": Fault("a storage that becomes read-only", ("local", *RAY),
                       _to_world(worlds.fail_disk), goes_on=False,
                       world=worlds.own_disk, mend=worlds.mend_disk),
    "server-hung": Fault("MLflow's server hung for a minute", ("local", *RAY),
                         _to_world(worlds.hang_server), goes_on=False,
                         world=worlds.own_server, mend=worlds.wait_for_server),
    "server-gone": Fault("MLflow's server gone for a minute", ("local", *RAY),
                         _to_world(worlds.kill_server), goes_on=False,
                         world=worlds.own_server, mend=worlds.wait_for_server),
    "clock": Fault("a clock that is set back by an hour", ("local", *RAY),
                   _to_world(worlds.set_clock_back), goes_on=True, world=worlds.own_clock),
    "node": Fault("a node lost with its workers", RAY, _to_world(worlds.lose_node), goes_on=True,
                  world=worlds.own_cluster),
}  # fmt: skip
"""By the name that is given on the command line."""
