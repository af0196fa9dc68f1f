"""Whole commands on a GPU, as a user types them: `doctor`, `plan`, and sweeps of both executors.

    python benchmarks/gpu_sweeps.py                      # needs all that the project needs
    python benchmarks/gpu_sweeps.py --device cpu --tiny  # tries it, with a tiny base

The file is `experiments/demo.yaml` with `gpus_per_worker: 1` where the demo's model is there, else
the same over a random Llama with made-up texts. Beside each command's wall time stands what
its journal says: how trials ended, the precision and why, and when the first trial reported.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where the project is not installed

from gpu_record import Record, given_options, parser_of, seconds_left
from results_page import ROOT

DEMO = ROOT / "experiments" / "demo.yaml"
Overrides = Mapping[str, Mapping[str, Any]]
SWEEPS: dict[str, Overrides] = {
    "pool": {},
    "pool_again": {},  # the untouched base and the speed of a pass are known by now
    "pool_32": {"search": {"trials": 32}, "resources": {"slots": 32}},
    "train": {"search": {"trials": 2}, "resources": {"executor": "train"}},
    "nf4": {"search": {"trials": 2}, "model": {"quantization": "nf4"}},
}


class Commands:
    """Runs commands over one file and its variants."""

    def __init__(self, folder: Path, device: str, tiny: bool, until: float) -> None:
        self._folder, self._until = folder, until
        self._document, self._beside = _document(folder, device, tiny)
        self._written: set[Path] = set()

    def run(self, *words: str, more: float = 0.0) -> subprocess.CompletedProcess[str]:
        """One command, ended by Ctrl-C when time is up."""
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "150"},
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=max(5.0, self._until + more - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                said, _ = process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
        print(said[-6000:], flush=True)
        return subprocess.CompletedProcess(process.args, process.returncode, said, "")

    def write(self, name: str, overrides: Overrides) -> Path:
        """The file of a sweep."""
        import yaml

        document = {**self._document, "name": name}
        for section, values in overrides.items():
            document[section] = {**document[section], **values}
        path = self._beside / f"gpu-{name}.yaml"  # beside its tasks, which it names
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        self._written.add(path)
        return path

    def tidy(self) -> None:
        """Take the files away again: the demo's stand in the project."""
        for path in self._written:
            path.unlink()

    def doctor(self) -> dict[str, Any]:
        """What it finds."""
        done = self.run("doctor")
        return {"status": done.returncode, "said": done.stdout[-4000:]}

    def plan(self) -> dict[str, Any]:
        """What it predicts."""
        began = time.monotonic()
        done = self.run("plan", str(self.write("pool", {})))
        found = {"status": done.returncode, "took": time.monotonic() - began}
        return found | {"said": done.stdout[-4000:], "ok": done.returncode == 0}

    def sweep(self, name: str) -> dict[str, Any]:
        """A whole sweep."""
        path = self.write(name, SWEEPS[name])
        began = time.monotonic()
        done = self.run("sweep", str(path))
        found = {"status": done.returncode, "seconds": time.monotonic() - began}
        return found | _journalled(self._folder / "runs" / name) | {"said": done.stdout[-3000:]}


def _document(folder: Path, device: str, tiny: bool) -> tuple[dict[str, Any], Path]:
    """What is run, and the folder in which its tasks are found."""
    import yaml

    document = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    base, beside = DEMO.parent / document["model"]["name"], DEMO.parent
    if tiny or not base.is_dir():
        from gpu_sharing import write_base
        from sweep_throughput import Sweep, write_experiment

        base, beside = folder / "base", folder / "made"
        made = write_experiment(beside, Sweep("quarter"), "pool 1x1", base=base)
        write_base(base, "tiny" if tiny else "small")
        document |= {
            "tasks": yaml.safe_load(made.read_text(encoding="utf-8"))["tasks"], "probes": [],
            "data": {"rung_examples": 4}, "objectives": {"gain": "max"}, "scoring": "full",
            "champion": {"maximize": "gain", "subject_to": {}},
        }  # fmt: skip
    document["search"].pop("first")  # two workers would need two GPUs
    document["resources"] = {"cpus_per_worker": 4, "gpus_per_worker": 1}
    if device == "cpu":
        document["resources"] = {"cpus_per_worker": 1}
    document |= {"model": {"name": str(base.resolve())}, "storage": str(folder / "runs")}
    return document, beside


def _journalled(folder: Path) -> dict[str, Any]:
    """What a journal says of a sweep."""
    from orchestrator.records.journal_lines import read_journal

    lines = list(read_journal(folder))
    zero = lines[0]["time"]
    ended = [line for line in lines if line["event"] == "trial_ended"]
    reports = [line["time"] - zero for line in lines if line["event"] == "stage_report"]
    states = [line["state"] for line in ended]
    return {
        "states": states, "reasons": [line["reason"][:500] for line in ended if line["reason"]],
        "gains": [(line["measures"] or {}).get("gain") for line in ended],
        "first_report": min(reports, default=None), "reports": len(reports),
        "journal": lines[-1]["time"] - zero, "precision": lines[0].get("precision"),
        "ok": bool(states) and set(states) == {"COMPLETE"},
    }  # fmt: skip


def main() -> None:
    """Run, print and keep every part."""
    parser = parser_of(__doc__, seconds=280)
    parts = ["doctor", "plan", *SWEEPS]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    given = given_options(parser)
    record, until = Record(given), time.monotonic() + seconds_left(given)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        commands = Commands(Path(place), given.device, given.tiny, until)
        try:
            known = {"doctor": commands.doctor, "plan": commands.plan}
            for name in given.parts:
                record.part(name, known.get(name, functools.partial(commands.sweep, name)))
        finally:
            commands.tidy()
    sys.exit(not record.end())


if __name__ == "__main__":
    main()
