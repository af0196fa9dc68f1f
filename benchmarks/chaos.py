"""Sweeps that are killed, again and again: each must end as if nothing had happened.

    python -m benchmarks.chaos driver --executor pool --times 50
    python -m benchmarks.chaos member worker hung-member --times 5
    python -m benchmarks.chaos --page                   # benchmarks/chaos.md from what is recorded

A small sweep is run undisturbed, and then again and again; a fault strikes each at a random moment
(the driver is killed up to ten times in one sweep), and the same command is repeated until it ends.
A sweep is *clean* if its trials, losses, scores, adapters and verdict are those of the undisturbed
one bit for bit, no finished trial has run again, nothing was reported twice, MLflow has one run of
each trial and none that seems to run, no output holds a traceback, and no process is left.

Every sweep is a line in `benchmarks/chaos.jsonl` as soon as it has ended, and a later call adds to
them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import chaos_sweep as sweeps
from benchmarks.chaos_faults import DRIVER, FAULTS, Fault, Running
from benchmarks.record_differences import differences
from orchestrator.base.devices import processor

RESULTS = Path(__file__).with_name("chaos.jsonl")
PAGE = Path(__file__).with_name("chaos.md")
KILLS_OF_ONE = 10
"""How often the driver of one sweep is killed."""
LIMIT = 1800.0
"""Seconds after which a command hangs, on a machine that may be busy."""
GONE_WITHIN = 30.0
"""Seconds in which all processes of a sweep must be gone once its command has ended."""
TRACEBACK = "Traceback (most recent call last)"


Moment = Callable[[float, sweeps.Place], bool]
"""Whether it is time, from the seconds since the command and the sweep."""


def at_line(number: int, delay: float) -> Moment:
    """A moment some seconds after the journal has a number of lines, and this command is there."""
    since: list[float] = []

    def is_now(passed: float, at: sweeps.Place) -> bool:
        if not since and len(at.journal) >= number:
            since.append(passed)
        return bool(since) and passed - since[0] >= delay

    return is_now


def random_moments(chance: random.Random, times: int, lines: int) -> Iterator[Moment]:
    """Moments that are spread over what a sweep does, not over a clock that others slow down.

    Args:
        chance: Draws them.
        times: How many.
        lines: Of the undisturbed journal.

    Yields:
        One for each command. Some fall into the start of a command, when the line is there already.
    """
    for number in sorted(chance.randrange(lines) for _ in range(times)):
        yield at_line(number, chance.choice([0.5, 10.0]) * chance.random() ** 2)


def undisturbed(root: Path, executor: str) -> tuple[dict[str, Any], int]:
    """Run the sweep with no fault.

    Args:
        root: As prepared.
        executor: One of `chaos_sweep.EXECUTORS`.

    Returns:
        Its outcome, and the lines of its journal.

    Raises:
        RuntimeError: If it does not end well.
    """
    at = sweeps.place(root, f"whole-{executor}", executor)
    log = root / f"whole-{executor}.log"
    code = sweeps.start(at, log).wait()
    faults = sweeps.broken_promises(at) if code == 0 else [f"exit code {code}"]
    if faults:
        raise RuntimeError(f"The undisturbed sweep is not sound: {faults}. Its output: {log}")
    return sweeps.outcome(at), len(at.journal)


def disturbed(
    at: sweeps.Place, fault: Fault, whole: dict[str, Any], moments: Iterator[Moment], log: Path
) -> dict[str, Any]:
    """Run a sweep until it ends, with a fault at some moments of its life.

    Args:
        at: An empty place.
        fault: What strikes.
        whole: The undisturbed outcome.
        moments: When it strikes, one for each command as long as there are some.
        log: For what the commands print.

    Returns:
        `strikes` (what, after how many seconds, and the last event then), `commands`, and `found`:
        whatever is not as it must be.
    """
    with fault.world(at) as there:
        return _disturbed(there, fault, whole, moments, log)


def _disturbed(
    at: sweeps.Place, fault: Fault, whole: dict[str, Any], moments: Iterator[Moment], log: Path
) -> dict[str, Any]:
    """As `disturbed`, where all that it depends on is there."""
    strikes: list[dict[str, Any]] = []
    commands, code, found = 0, -1, []
    while code != 0:
        driver = sweeps.start(at, log)
        commands += 1
        moment = next(moments, None)
        if moment is not None:
            strikes += _struck(Running(at, driver, log), fault, moment)
        try:
            code = driver.wait(LIMIT)
        except subprocess.TimeoutExpired:
            sweeps.end_all(at.mark)
            found.append(f"a command did not end within {LIMIT:.0f} s")
            break
        fault.mend(at)
        if code != 0 and moment is None:
            found.append(f"the command ended with {code} though nothing disturbed it")
            break
        if code != 0 and fault.goes_on:
            found.append(f"the command did not survive it: exit code {code}")
    found += [f"left running: {line}" for line in sweeps.left_after(at.mark, GONE_WITHIN)]
    sweeps.end_all(at.mark)
    if code == 0:
        found += differences(whole, sweeps.outcome(at))[:10] + sweeps.broken_promises(at)
    if TRACEBACK in log.read_text(errors="replace"):
        found.append("a traceback in what was printed")
    return {"strikes": strikes, "commands": commands, "found": found}


def _struck(run: Running, fault: Fault, moment: Moment) -> list[dict[str, Any]]:
    """Let a fault strike as soon after a moment as there is something to strike."""
    begun = time.monotonic()
    while run.driver.poll() is None:
        seconds = time.monotonic() - begun
        if not moment(seconds, run.at):
            time.sleep(0.02)
            continue
        when = sweeps.last_event(run.at.journal)
        done = fault.strike(run)
        if done:
            return [{"what": done, "after_s": round(seconds, 2), "last_event": when}]
        time.sleep(0.5)
    return []


def run(
    fault_name: str, executor: str, times: int, seed: int, root: Path, to: Path,
    whole: tuple[dict[str, Any], int],
) -> bool:  # fmt: skip
    """Let a fault strike a number of times, and record every sweep.

    Args:
        fault_name: One of `FAULTS`.
        executor: One that it concerns.
        times: How many strikes at least.
        seed: Of the moments.
        root: As prepared.
        to: The file of results; a line is added for each sweep.
        whole: What `undisturbed` gives.

    Returns:
        Whether all were clean.
    """
    here = processor()
    fault, chance = FAULTS[fault_name], random.Random(f"{fault_name}/{executor}/{seed}")
    outcome, lines = whole
    of_one = KILLS_OF_ONE if fault_name == DRIVER else 1
    struck = sweep = 0
    clean = True
    while struck < times and sweep < 2 * times:
        sweep += 1
        moments = random_moments(chance, min(of_one, times - struck), lines)
        name = f"{fault_name}-{executor}-{seed}-{sweep}"
        at = sweeps.place(root, name, executor)
        told = disturbed(at, fault, outcome, moments, root / f"{name}.log")
        struck += len(told["strikes"])
        clean = clean and not told["found"]
        line = {
            "fault": fault_name, "executor": executor, "seed": seed, "sweep": sweep,
            "lines": lines, "code": _code(), "processor": f"{here.name}: {here.because}", **told,
        }  # fmt: skip
        with to.open("a", encoding="utf-8") as results:
            results.write(json.dumps(line) + "\n")
        print(f"{name}: {len(told['strikes'])} strikes, {told['found'] or 'clean'}", flush=True)
    if not struck:
        print(f"{fault_name}: nothing was struck with {executor}, which proves nothing")
    return clean and struck > 0


def _code() -> str:
    """The commit that runs."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return found.stdout.strip()


def page(lines: Sequence[dict[str, Any]]) -> str:
    """The table of all results.

    Args:
        lines: As recorded.

    Returns:
        Markdown.
    """
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if not line["strikes"]:  # it had ended before; that says nothing about the fault
            continue
        rows.setdefault((line["fault"], line["executor"]), []).append(line)
    table = [
        "# Sweeps that were disturbed",
        "",
        "Written by `python -m benchmarks.chaos --page` from `benchmarks/chaos.jsonl`; what a "
        "clean sweep is stands at the head of `benchmarks/chaos.py`. What was found has the commit "
        "that it was found in; `docs/reliability.md` says what was mended.",
        "",
        "| fault | executor | strikes | sweeps | clean sweeps | otherwise |",
        "|---|---|---:|---:|---:|---|",
    ]
    for (fault, executor), told in sorted(rows.items()):
        found = sorted({f"{text} ({line['code']})" for line in told for text in line["found"]})
        clean = sum(not line["found"] for line in told)
        strikes = sum(len(line["strikes"]) for line in told)
        shown = "; ".join(text[:100] for text in found[:3]).replace("|", "\\|")
        table.append(
            f"| {FAULTS[fault].what} | {executor} | {strikes} | {len(told)} | {clean} | {shown} |"
        )
    processors = sorted({line["processor"] for line in lines})
    return "\n".join([*table, "", f"Processors: {'; '.join(processors)}.", ""])


def main() -> None:
    """Run faults, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], help="default: all")
    parser.add_argument("--executor", action="append", choices=tuple(sweeps.EXECUTORS))
    parser.add_argument("--times", type=int, default=1, help="strikes of each, with each executor")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other moments")
    parser.add_argument("--to", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="keep what the sweeps wrote there")
    parser.add_argument("--page", action="store_true", help="write the page, and run nothing")
    arguments = parser.parse_args()
    if arguments.page:
        lines = [json.loads(line) for line in arguments.to.read_text().splitlines()]
        PAGE.write_text(page(lines), encoding="utf-8")
        return
    clean = True
    with tempfile.TemporaryDirectory(prefix="chaos-") as made:
        root = (arguments.folder or Path(made)).resolve()
        sweeps.prepare(root)
        wholes: dict[str, tuple[dict[str, Any], int]] = {}
        for name in arguments.faults or FAULTS:
            for executor in arguments.executor or FAULTS[name].executors:
                if executor not in FAULTS[name].executors:
                    continue
                if executor not in wholes:
                    wholes[executor] = undisturbed(root, executor)
                clean &= run(
                    name, executor, arguments.times, arguments.seed, root, arguments.to,
                    wholes[executor],
                )  # fmt: skip
    raise SystemExit(0 if clean else 1)


if __name__ == "__main__":
    main()
