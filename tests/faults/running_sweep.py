"""A sweep in a process of its own, with a Ray of its own, to which faults are done."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from orchestrator.records.journal_lines import read_journal

ROOT = Path(__file__).parents[2]
COMMAND = "from orchestrator import cli; cli.main()"


class RunningSweep:
    """`orchestrate sweep FILE`, what it has written, and the processes that it started."""

    def __init__(self, path, folder, log, *, before=""):
        """Start it; `before` is Python that its process runs first."""
        self.folder, self.log = folder, log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", before + COMMAND, "sweep", str(path)], cwd=log.parent,
                stdout=output, stderr=output,
                env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            )  # fmt: skip
        self._seen = {}

    @property
    def text(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def lines(self):
        return read_journal(self.folder) if self.folder.is_dir() else []

    def events(self, name):
        return [line for line in self.lines() if line["event"] == name]

    def wait_for(self, met, seconds):
        """Wait until something holds; how long that took."""
        began = time.monotonic()
        while not met():
            self.processes()
            if self.process.poll() is not None and not met():
                raise AssertionError(f"it ended with {self.process.returncode}:\n{self.text}")
            assert time.monotonic() - began < seconds, f"not within {seconds} s:\n{self.text}"
            time.sleep(0.2)
        return time.monotonic() - began

    def processes(self):
        """All processes that it has started so far and that run, by id."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self._seen[child.pid] = child
        return [child for child in self._seen.values() if _runs(child)]

    def named(self, *words):
        """Its processes whose title or command line has all of some words."""
        found = []
        for child in self.processes():
            with suppress(psutil.Error):
                if all(word in " ".join(child.cmdline()) for word in words):
                    found.append(child)
        return found

    def raylet(self):
        """The process of its Ray on this node."""
        found = []
        for child in self.processes():
            with suppress(psutil.Error):
                if child.name() == "raylet":
                    found.append(child)
        (only,) = found
        return only

    def does(self, process, what):
        """Send a signal to one of its processes."""
        assert process.pid in self._seen, "only what this sweep has started"
        os.kill(process.pid, what)

    def end(self):
        """End it and all that it has started, by id."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        for process in self._seen.values():
            with suppress(psutil.Error):
                process.kill()


def _runs(process):
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
