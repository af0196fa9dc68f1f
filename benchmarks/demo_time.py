"""How long a sweep takes beside what `plan` predicts, and where the time goes.

    .venv/bin/python benchmarks/demo_time.py                      # the demo, in its own folder
    .venv/bin/python benchmarks/demo_time.py experiments/my.yaml  # another file
    .venv/bin/python benchmarks/demo_time.py runs/demo            # reads a sweep that has run

The bars, on two idle cores after installation and from an empty cache: the demo at most 420 s on an
AVX2-only processor (fp32) and 240 s with native bf16; predictions within 30 %. Results are in
`demo_time.md`.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from orchestrator.records.journal_lines import read_journal

ROOT = Path(__file__).parents[1]


def run_timed(file: Path, storage: Path) -> Path:
    """Predict and run a sweep with a storage of its own; give its folder."""
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    copy = file.with_name(f"timed-{storage.name}.yaml")
    # The searcher draws in the order of the space: sorted keys would be another sweep.
    text = yaml.safe_dump({**document, "storage": str(storage)}, sort_keys=False)
    copy.write_text(text, encoding="utf-8")
    program = Path(sys.executable).parent / "orchestrate"
    try:
        plan = subprocess.run(
            [program, "plan", str(copy), "--json"], check=True, capture_output=True
        )
        predicted = json.loads(plan.stdout)["sweep_seconds"]
        began = time.monotonic()
        subprocess.run([program, "sweep", str(copy)], check=True, stdout=subprocess.DEVNULL)
    finally:
        copy.unlink()
    took = time.monotonic() - began
    share = predicted / took
    print(f"whole command: {took:.0f} s; predicted: {predicted:.0f} s, {share:.2f} of it")
    return storage / str(document["name"])


def main() -> None:
    """Print a line for each trial, and the sum."""
    given = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "experiments" / "demo.yaml")
    folder = given
    if given.is_file():
        folder = run_timed(given, Path(tempfile.mkdtemp(prefix="demo-time-")))
    lines = read_journal(folder)
    zero = lines[0]["time"]
    started: dict[str, float] = {}
    learning: dict[str, float] = {}
    print("trial  started  start-up  computing  ended   (seconds from the opening of the journal)")
    for line in lines:
        if line["event"] == "trial_started":
            started[line["trial"]] = line["time"]
        elif line["event"] == "stage_report":
            learning.setdefault(line["trial"], line["time"] - line["report"]["seconds"])
        elif line["event"] == "trial_ended":
            name, end = line["trial"], line["time"]
            begin, first = started[name], learning.get(name, end)
            print(
                f"{name:6} {begin - zero:7.0f} {first - begin:9.0f} {end - first:10.0f} "
                f"{end - zero:6.0f}"
            )
    print(f"journal: {lines[-1]['time'] - zero:.0f} s from its first line to its last")


if __name__ == "__main__":
    main()
