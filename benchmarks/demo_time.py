"""How long the demo takes, and where the time goes.

    .venv/bin/python benchmarks/demo_time.py            # runs the demo in a folder of its own
    .venv/bin/python benchmarks/demo_time.py runs/demo  # reads a sweep that has run

The bar: at most 600 s on two cores after installation. Results are in `demo_time.md`.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.records.journal_lines import read_journal

ROOT = Path(__file__).parents[1]


def run_demo(storage: Path) -> Path:
    """Run the demo with a storage of its own and give the sweep's folder."""
    text = (ROOT / "experiments" / "demo.yaml").read_text(encoding="utf-8")
    copy = ROOT / "experiments" / f"timed-{storage.name}.yaml"
    copy.write_text(text.replace("storage: ./runs", f"storage: {storage}"), encoding="utf-8")
    began = time.monotonic()
    try:
        command = [Path(sys.executable).parent / "orchestrate", "sweep", str(copy)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    finally:
        copy.unlink()
    print(f"whole command: {time.monotonic() - began:.0f} s")
    return storage / "demo"


def main() -> None:
    """Print a line for each trial, and the sum."""
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
    else:
        folder = run_demo(Path(tempfile.mkdtemp(prefix="demo-time-")))
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
