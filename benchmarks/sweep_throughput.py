"""What stepping many trials together gains, against the other ways to run them.

    .venv/bin/python benchmarks/sweep_throughput.py steady --write    # tokens per second
    .venv/bin/python benchmarks/sweep_throughput.py sweeps --write    # trials per hour
    .venv/bin/python benchmarks/sweep_throughput.py sweeps --ways "pool 1x1" "tune 2x1"

The trial: three tasks of 128 examples of 40 tokens on average, SmolLM2-135M, all linear layers,
r = 16, bf16 (or `--precision fp32`), batches of 4; 64 examples of each task are scored after each
task. A quarter of it has 32 examples a task and scores 16.

`steady` is what `packed_step.py` measures: one packed tick of K adapters, the same adapters taking
turns in one process (`curlora.attach`, which is PEFT's own LoRA for LoRA, and torch's AdamW), and
one pass in which every layer loops over the adapters in Python.

`sweeps` runs whole sweeps, each in a process of its own, and divides their trials by the wall time
of the command: start of Ray, loading, training and evaluation included, the untouched base not (it
is measured once before). Ways: `pool MxT`, M members of T threads; `train MxT`, M trials at a time
with Ray Train workers of T threads; `tune MxT`, one process per trial through Ray Tune that loads
the base and trains with the plain engine, M at a time with T threads.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from results_page import ROOT, machine, table, write_section

os.environ.setdefault("HF_HUB_OFFLINE", "1")

BASE = ROOT / ".demo" / "SmolLM2-135M-Instruct"
RECORD = ROOT / "benchmarks" / "sweep_throughput.json"
TASKS = ("first", "second", "third")
MEAN_TOKENS = 40
SIZES = {"whole": (128, 64), "quarter": (32, 16)}
"""Training examples and scored examples of each task."""
SLOTS = 8
"""Trials at a time in all members of the pool together, where a sweep has no more."""
WAYS = ("pool 1x1", "pool 1x2", "pool 2x1", "tune 2x1", "tune 1x2", "train 2x1")
NOUNS = ("house", "river", "garden", "winter", "letter", "market", "doctor", "window", "bridge",
         "kitchen", "teacher", "forest", "captain", "village", "machine", "engine")  # fmt: skip
VERBS = ("found", "kept", "saw", "left", "made", "told", "gave", "held", "met", "carried")


# ----------------------------------------------------------------------------------- the trial


def texts(count: int, seed: str, length: int) -> list[dict[str, str]]:
    """Sentences of about `length` words with a label that one word decides."""
    draw = random.Random(seed)
    rows: list[dict[str, str]] = []
    for _ in range(count):
        label = draw.choice(["no", "yes"])
        words = [draw.choice(["bright", "gentle"] if label == "yes" else ["gloomy", "bitter"])]
        while len(words) < draw.randint(length - 10, length + 10):
            words += ["the", draw.choice(NOUNS), draw.choice(VERBS)]
        rows.append({"text": " ".join(words), "label": label})
    return rows


class Sweep(NamedTuple):
    """What is run in every way."""

    size: str = "whole"
    """A key of `SIZES`."""
    trials: int = SLOTS
    """How many, each at a learning rate of its own."""
    precision: str = "bf16"


def write_experiment(folder: Path, sweep: Sweep, way: str, base: Path = BASE) -> Path:
    """Write data, task files and an experiment.

    Args:
        folder: Where to; made if missing.
        sweep: What is run.
        way: See the module.
        base: The folder of the base model.

    Returns:
        The experiment file.
    """
    import yaml

    train, scored = SIZES[sweep.size]
    trials = sweep.trials
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        data = folder / "data" / name
        data.mkdir(parents=True, exist_ok=True)
        for split, count in (("train", train), ("validation", scored), ("test", scored)):
            lines = [json.dumps(row) for row in texts(count, f"{name}/{split}", 31)]
            (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        task = {
            "name": name, "kind": "classification", "data": {"files": f"../data/{name}"},
            "prompt": "Text: {text}\nFriendly:", "labels": {"no": " no", "yes": " yes"},
        }  # fmt: skip
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    executor, members, threads = members_and_threads(way)
    rates = [1e-4 * 20 ** (number / trials) for number in range(trials)]
    resources: dict[str, Any] = {"cpus_per_worker": threads, "executor": "train"}
    if executor == "pool":
        resources |= {
            "executor": "pool",
            "slots": max(SLOTS, min(trials, SLOTS * members)) // members,
            "members": members,
        }
    document = {
        "name": "-".join([sweep.size, sweep.precision, *way.split()]),
        "model": {"name": str(base)},
        "tasks": list(TASKS),
        "method": {"adapter": {"kind": "curlora", "r": 16, "target_modules": "all-linear"}},
        "training": {"learning_rate": 1e-3, "batch_size": 4, "max_length": 96,
                     "precision": sweep.precision},
        "data": {"rung_examples": 4},
        "objectives": {"gain": "max"},
        "champion": {"maximize": "gain", "subject_to": {}},
        "search": {
            "space": {"training.learning_rate": {"choice": rates}}, "searcher": "grid",
            "trials": trials, "max_concurrent": None if executor == "pool" else members,
        },
        "resources": resources,
        "storage": str(folder / "runs"),
    }  # fmt: skip
    path = folder / f"{document['name']}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def members_and_threads(way: str) -> tuple[str, int, int]:
    """Executor, how many at a time, and threads of each."""
    found = re.fullmatch(r"(pool|train|tune) (\d+)x(\d+)", way)
    if found is None:
        raise ValueError(f"a way is `pool MxT`, `train MxT` or `tune MxT`, got {way!r}")
    return found[1], int(found[2]), int(found[3])


# ----------------------------------------------------------------------------------- sweeps


def tune_sweep(path: Path, at_once: int) -> None:
    """One process per trial through Ray Tune, as one would write it without this project's pool.

    Args:
        path: The experiment file.
        at_once: Trials at a time; the threads of each stand in the experiment.

    Raises:
        RuntimeError: A trial has failed.
    """
    import ray
    from ray import tune

    from orchestrator.base.loading import load_tokenizer
    from orchestrator.data.preparation import prepare
    from orchestrator.spec.load import load_experiment

    loaded = load_experiment(path)
    data = prepare(loaded, load_tokenizer(loaded.experiment.model))
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    held = ray.put(data)
    document = loaded.experiment.model_dump(mode="json")
    space = loaded.experiment.search.space["training.learning_rate"].choice
    folder = Path(tempfile.mkdtemp())

    def trial(config: dict[str, Any]) -> None:
        from orchestrator.executors.job import Job
        from orchestrator.executors.local import run_locally
        from orchestrator.records.sweep_folder import SweepFolder
        from orchestrator.spec.experiment import Experiment
        from orchestrator.system.seals import Maker

        experiment = Experiment.model_validate(document).with_overrides(
            {"training.learning_rate": config["rate"]}
        )
        reports: list[Any] = []
        name = f"rate-{config['rate']:.3g}"
        maker = Maker("benchmark", name, "")
        run_locally(Job(experiment, maker, SweepFolder(folder)), ray.get(held), reports.append)
        tune.report({"reports": len(reports)})

    tuner = tune.Tuner(
        tune.with_resources(trial, {"CPU": 2 // at_once}),
        param_space={"rate": tune.grid_search(list(space))},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    )
    found = tuner.fit()
    ray.shutdown()
    shutil.rmtree(folder)
    if found.num_errors:
        raise RuntimeError(f"{found.num_errors} trials failed: {found.errors[0]}")
    ended = sum("reports" in (result.metrics or {}) for result in found)
    if ended != len(space):  # Tune returns quietly when it is interrupted
        raise RuntimeError(f"{ended} of {len(space)} trials ended")


def sweep_seconds(folder: Path, sweep: Sweep, way: str) -> float:
    """Wall seconds of one whole sweep in a process of its own."""
    executor, members, _ = members_and_threads(way)
    path = write_experiment(folder, sweep, way)
    shutil.rmtree(folder / "runs" / path.stem, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "orchestrate"), "sweep", str(path)]
    if executor == "tune":
        command = [sys.executable, __file__, "tune", str(path), str(members)]
    began = time.perf_counter()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        ended = subprocess.run(command, stdout=log, stderr=log, check=False)
    seconds = time.perf_counter() - began
    if ended.returncode not in {0, 3}:
        raise RuntimeError(f"{way}: {(folder / 'log.txt').read_text(encoding='utf-8')[-3000:]}")
    return seconds


def measure_sweeps(sweep: Sweep, ways: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Trials per hour of each way, in turns.

    Args:
        sweep: What is run.
        ways: See the module.
        rounds: How often each way runs.

    Returns:
        A line for each way.
    """
    found: dict[str, list[float]] = {way: [] for way in ways}
    load: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for way in {w for w in ways if not w.startswith("tune")}:
            # The untouched base is measured once and remembered; here that is not of interest.
            warm = write_experiment(folder, sweep, way)
            text = re.sub(r"trials: \d+", "trials: 1", warm.read_text(encoding="utf-8"))
            text = re.sub(r"choice:\n(  +- .*\n)(  +- .*\n)+", r"choice:\n\1", text)
            warm.write_text(text.replace("name: ", "name: warm-", 1), encoding="utf-8")
            subprocess.run(
                [str(Path(sys.executable).parent / "orchestrate"), "sweep", str(warm)],
                capture_output=True, check=False,
            )  # fmt: skip
        for _ in range(rounds):
            for way in ways:
                found[way].append(sweep_seconds(folder, sweep, way))
                load[way] = os.getloadavg()[0]
                print(f"{' '.join(map(str, sweep))}, {way}: {found[way][-1]:.0f} s", flush=True)
    return [
        {
            **sweep._asdict(), "way": way, "seconds": seconds, "load": round(load[way], 1),
            "per_hour": 3600 * sweep.trials / statistics.median(seconds), **machine(),
        }
        for way, seconds in found.items()
    ]  # fmt: skip


def measure_steady(kind: str, rows: int, threads: int, repeats: int) -> dict[str, Any]:
    """One line of `packed_step.py`: bf16, eight slots, rows of 48 tokens."""
    import packed_step
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    slots, length = 8, 48
    clock = functools.partial(packed_step.seconds, threads=threads)
    base = packed_step.smollm2(torch.bfloat16)
    peak, flops = packed_step.matrix_flops("cpu", clock), packed_step.frozen_flops(base)
    found = packed_step.measure(base, kind, slots, rows, length, repeats, clock)
    tokens = slots * rows * length
    return {
        "kind": kind, "slots": slots, "rows": rows, "length": length, "threads": threads,
        "repeats": repeats, "load": round(os.getloadavg()[0], 1),
        "packed": tokens / found["tick"], "turns": tokens / found["turns"],
        "loop": tokens / found["loop"], "bare": tokens / found["bare"],
        "ratio": found["ratio"], "low": found["low"], "high": found["high"],
        "peak": peak, "flops": flops, **machine(),
    }  # fmt: skip


# ----------------------------------------------------------------------------------- what is shown


def page(record: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What stands in the results: facts and a table for each part that was measured."""
    found: list[str] = []
    for part, draw in (("steady", _steady_table), ("sweeps", _sweeps_table)):
        lines = record.get(part, [])
        if not lines:
            continue
        one = lines[-1]
        loads = [x["load"] for x in lines]
        found.append(
            f"`python benchmarks/sweep_throughput.py {part} --write`, {one['date']}, "
            f"{one['cores']} cores of {one['cpu']}; torch {one['torch']}, ray {one['ray']}, "
            f"peft {one['peft']}; load average {min(loads):g} to {max(loads):g}."
        )
        found.append(draw(lines))
    return "\n\n".join(found)


def _steady_table(lines: Sequence[Mapping[str, Any]]) -> str:
    rows = [[
        "adapter", "threads", "rows x tokens of a slot", "packed, tokens/s", "taking turns",
        "naive loop", "packed over turns (quartiles)", "ceiling: bare base over turns",
        "utilisation by 4N",
    ]]  # fmt: skip
    rows += [
        [
            x["kind"], str(x["threads"]), f"{x['rows']} x {x['length']}", f"{x['packed']:.0f}",
            f"{x['turns']:.0f}", f"{x['loop']:.0f}",
            f"**{x['ratio']:.2f}** ({x['low']:.2f}-{x['high']:.2f})",
            f"{x['bare'] / x['turns']:.2f}",
            f"{x['packed'] * x['flops'] / x['peak']:.2f} of {x['peak'] / 1e9:.0f} GFLOP/s",
        ]
        for x in lines
    ]  # fmt: skip
    return table(rows)


def _sweeps_table(lines: Sequence[Mapping[str, Any]]) -> str:
    rows = [[
        "trial", "trials", "precision", "way", "seconds of the sweep", "trials per hour",
        "over best tune",
    ]]  # fmt: skip
    for x in lines:
        what = [x[name] for name in Sweep._fields]
        rivals = [
            y["per_hour"]
            for y in lines
            if [y[name] for name in Sweep._fields] == what and y["way"].startswith("tune")
        ]
        over = f"{x['per_hour'] / max(rivals):.2f}" if rivals else "-"
        seconds = ", ".join(f"{value:.0f}" for value in x["seconds"])
        rows.append([*map(str, what), x["way"], seconds, f"{x['per_hour']:.1f}", over])
    return table(rows)


def keep(part: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Put measured lines in the place of earlier ones of the same kind, and draw the page."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    names = (*Sweep._fields, "way") if part == "sweeps" else ("kind", "rows", "threads")
    kept = {tuple(x[n] for n in names): x for x in [*record.get(part, []), *lines]}
    record[part] = [kept[key] for key in sorted(kept, key=str)]
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_section("sweep throughput", page(record))


def main() -> None:
    """Measure what the command line asks for, and print it."""
    if sys.argv[1:2] == ["tune"]:
        tune_sweep(Path(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=["steady", "sweeps"])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trials", type=int, default=SLOTS, help="of each sweep")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--write", action="store_true", help="keep the record and write the page")
    given = parser.parse_args()
    for way in given.ways:
        members_and_threads(way)
    if given.part == "sweeps":
        for size in given.sizes:
            sweep = Sweep(size, given.trials, given.precision)
            lines = measure_sweeps(sweep, given.ways, given.rounds)
            print(_sweeps_table(lines), flush=True)
            if given.write:
                keep("sweeps", lines)
        return
    for threads in given.threads:
        for kind in ("curlora", "lora"):
            for rows in (4, 1):
                line = measure_steady(kind, rows, threads, given.repeats)
                print(_steady_table([line]), flush=True)
                if given.write:
                    keep("steady", [line])


if __name__ == "__main__":
    main()
