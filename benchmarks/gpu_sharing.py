"""What one GPU holds beside a single pack: several processes at once, and 256 trials of the pool.

    python benchmarks/gpu_sharing.py
    python benchmarks/gpu_sharing.py --device cpu --tiny --processes 2 --resident 3

Several processes, each with a base of its own, train one adapter each at the same time: what is
left to somebody without packing (`packed_gpu.py`). Then CURLoRA trials of rank 16 are made resident
in one member of the pool and stepped, which needs the whole project installed.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where the project is not installed

import packed_step
import torch
from gpu_record import Record, given_options, parser_of
from packed_ways import clock_of, wait_for
from random_llama import SIZES, random_llama
from torch import nn

import curlora


def base_of(shape: str, device: str) -> nn.Module:
    """A frozen random Llama in bf16, the same every time."""
    return random_llama(SIZES[shape], device=device, dtype=torch.bfloat16, tied=True)


def neighbour(
    shape: str, device: str, kind: str, length: int, for_seconds: float, begin: Any, counts: Any
) -> None:
    """One process among several: trains one adapter for a while, then tells its tokens a second."""
    base = base_of(shape, device)
    settings = packed_step.SETTINGS[kind] | {"target_modules": packed_step.TARGETS}
    solo = curlora.attach(base, kind, settings, seed=0)
    optimizer = torch.optim.AdamW(curlora.trainable_parameters(solo).values(), lr=1e-3)
    vocabulary = SIZES[shape].vocabulary
    tokens = torch.randint(0, vocabulary, (1, length + 1), device=device)
    model: Any = solo
    inner: Any = model.base_model.model if hasattr(model, "base_model") else model

    def step() -> None:
        packed_step.losses(inner, tokens, 1)[0].backward()
        packed_step.one_step(solo, optimizer)

    for _ in range(3):
        step()
    wait_for(device)
    begin.wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < for_seconds:
        step()
        wait_for(device)
        steps += 1
    counts.put(steps * length / (time.perf_counter() - start))


def sharing(
    shape: str, device: str, kind: str, length: int, processes: int, for_seconds: float
) -> float:
    """Tokens a second of several processes on one device, each with a base of its own."""
    context = multiprocessing.get_context("spawn")
    begin, counts = context.Barrier(processes), context.Queue()
    made = [
        context.Process(
            target=neighbour, args=(shape, device, kind, length, for_seconds, begin, counts)
        )
        for _ in range(processes)
    ]
    for process in made:
        process.start()
    for process in made:
        process.join()
    ended = [process.exitcode for process in made]
    if any(ended):
        raise RuntimeError(f"of {processes} processes some ended badly: {ended}")
    found: list[float] = [counts.get() for _ in made]
    return sum(found)


def write_base(folder: Path, shape: str) -> None:
    """Save the random base, with a tokenizer of the words of `sweep_throughput.texts`."""
    from sweep_throughput import NOUNS, VERBS
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<pad>", "Text:", "Friendly:", "yes", "no", "the", "bright", "gentle",
             "gloomy", "bitter", *NOUNS, *VERBS]  # fmt: skip
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)
    model: Any = base_of(shape, "cpu")
    model.save_pretrained(folder)


def resident(given: argparse.Namespace) -> dict[str, Any]:
    """Let many trials into one member of the pool, and let each learn a step.

    Args:
        given: The command line.

    Returns:
        How many there were, seconds of joining all and of two ticks, and bytes.
    """
    from sweep_throughput import Sweep, write_experiment

    from orchestrator.base.loading import load_tokenizer
    from orchestrator.data.preparation import prepare
    from orchestrator.executors.job import Job
    from orchestrator.executors.messages import Failed
    from orchestrator.executors.pool.member import Member
    from orchestrator.records.sweep_folder import SweepFolder
    from orchestrator.spec.load import load_experiment
    from orchestrator.system.seals import Maker

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_base(folder / "base", given.shape)
        path = write_experiment(folder, Sweep("quarter"), "pool 1x1", base=folder / "base")
        loaded = load_experiment(path)
        data = prepare(loaded, load_tokenizer(loaded.experiment.model))
        experiment = loaded.experiment.with_overrides(
            {
                "resources.slots": given.resident,
                "resources.gpus_per_worker": int(given.device == "cuda"),
                "training.batch_size": 1,
            }
        )
        member = Member(experiment, data, folder)
        clock = clock_of(given.device)
        before = _held(given.device)
        for number in range(given.resident):
            trial = experiment.with_overrides({"training.seed": number})
            maker = Maker("benchmark", f"trial {number}", "")
            member.take(Job(trial, maker, SweepFolder(folder)))

        def join() -> None:
            tick()  # the first trial shows what a pass takes; then the others are let in
            member.begin()

        def tick() -> None:
            for name, message in member.work():
                match message:
                    case Failed():
                        raise RuntimeError(f"{name}: {message.reason} {message.details}")

        joining = clock(join)
        after = _held(given.device)
        ticks = [clock(tick) for _ in range(3)]
    return {
        "shape": given.shape, "slots": len(member.begun), "join_seconds": joining,
        "tick_seconds": statistics.median(ticks), "bytes": after - before,
    }  # fmt: skip


def _held(device: str) -> int:
    if device == "cuda":
        return torch.cuda.memory_allocated()
    import psutil

    return psutil.Process().memory_info().rss


def main() -> None:
    """Measure, print and keep."""
    parser = parser_of(__doc__, seconds=900)
    parser.add_argument("--shape", choices=SIZES, default="llama-1b")
    parser.add_argument("--kinds", nargs="+", default=["curlora", "lora"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument(
        "--each", type=float, default=10.0, help="seconds of the processes together"
    )
    parser.add_argument("--resident", type=int, default=256, help="trials in the pool")
    given = given_options(parser)
    if given.tiny:
        given.shape, given.lengths, given.each = "tiny", [16], 1.0
    record = Record(given)
    for kind in given.kinds:
        for length in given.lengths:
            work = functools.partial(
                sharing, given.shape, given.device, kind, length, given.processes, given.each
            )
            record.part(f"{given.processes} processes, {kind}, {length} tokens", work)
    record.part("resident", functools.partial(resident, given))
    sys.exit(not record.end())


if __name__ == "__main__":
    main()
