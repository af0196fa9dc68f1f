"""What packing gains on one GPU: useful tokens per second of K trials in one pass over one base.

    .venv/bin/python benchmarks/packed_gpu.py --write
    .venv/bin/python benchmarks/packed_gpu.py --shape tiny --device cpu --slots 4 --lengths 16

A Llama with random weights in bf16, all linear layers adapted, r = 16, one row a slot. A packed
tick of K slots (forward, backward, an optimiser step of each) is compared with one process that
trains one adapter at a time, with `--processes` of them at once on the same device, and with the
bare base on the same rows, which is the ceiling. Model FLOPs utilisation counts 4 N a token, N
without the embeddings: a frozen base has a forward pass and the backward pass of its activations.

At last 256 CURLoRA trials of rank 16 are made resident in one pack and stepped once.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import packed_step
import torch
from results_page import PAGE, machine, table, write_section
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import curlora

RECORD = PAGE.with_name("packed_gpu.json")
SHAPES: dict[str, dict[str, int]] = {
    "llama-1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
    },
}  # fmt: skip
RESIDENT = 256
BARS = {8: 5.0, 32: 10.0}
"""Least gain over one process at a time at rows of 64 tokens, by slots."""


def base_of(shape: str, device: str) -> nn.Module:
    """A frozen random Llama in bf16, the same every time."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=2048, tie_word_embeddings=True)
    with torch.device(device):
        base = LlamaForCausalLM(config).to(torch.bfloat16)
    return base.eval().requires_grad_(False)


def clock_of(device: str) -> Callable[[Callable[[], None]], float]:
    """Wall seconds of some work, until the device has done it."""

    def clock(work: Callable[[], None]) -> float:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        return time.perf_counter() - start

    return clock


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def neighbour(
    shape: str, device: str, kind: str, length: int, for_seconds: float, begin: Any, counts: Any
) -> None:
    """One process among several: trains one adapter for a while, then tells its tokens a second."""
    base = base_of(shape, device)
    settings = packed_step.SETTINGS[kind] | {"target_modules": packed_step.TARGETS}
    solo = curlora.attach(base, kind, settings, seed=0)
    optimizer = torch.optim.AdamW(curlora.trainable_parameters(solo).values(), lr=1e-3)
    vocabulary = SHAPES[shape]["vocab_size"]
    tokens = torch.randint(0, vocabulary, (1, length + 1), device=device)
    model: Any = solo
    inner: Any = model.base_model.model if hasattr(model, "base_model") else model

    def step() -> None:
        packed_step.losses(inner, tokens, 1)[0].backward()
        packed_step.one_step(solo, optimizer)

    for _ in range(3):
        step()
    _wait(device)
    begin.wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < for_seconds:
        step()
        _wait(device)
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


def measure(given: argparse.Namespace, kind: str, length: int) -> list[dict[str, Any]]:
    """All counts of slots of one adapter and length."""
    base = base_of(given.shape, given.device)
    clock = clock_of(given.device)
    peak, flops = packed_step.matrix_flops(given.device, clock), packed_step.frozen_flops(base)
    together = sharing(given.shape, given.device, kind, length, given.processes, given.seconds)
    lines: list[dict[str, Any]] = []
    for slots in given.slots:
        found = packed_step.measure(base, kind, slots, 1, length, given.repeats, clock, naive=False)
        tokens = slots * length
        lines.append({
            "shape": given.shape, "kind": kind, "length": length, "slots": slots,
            "packed": tokens / found["tick"], "turns": tokens / found["turns"],
            "bare": tokens / found["bare"], "together": together, "processes": given.processes,
            "ratio": found["ratio"], "low": found["low"], "high": found["high"],
            "mfu": flops * tokens / found["tick"] / peak, "peak": peak,
        })  # fmt: skip
        print(json.dumps(lines[-1]), flush=True)
    return lines


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


# ----------------------------------------------------------------------------------- what is shown


def page(record: Mapping[str, Any]) -> str:
    """What stands in the results."""
    on, lines, many = record["machine"], record["lines"], record["resident"]
    head = ["adapter", "tokens of a row", "slots", "packed, tokens/s", "one process at a time",
            f"{lines[0]['processes']} processes together", "packed over one process (quartiles)",
            "packed over all processes", "ceiling: bare base over one process", "MFU by 4N",
            ]  # fmt: skip
    rows = [
        [
            x["kind"], str(x["length"]), str(x["slots"]), f"{x['packed']:,.0f}",
            f"{x['turns']:,.0f}", f"{x['together']:,.0f}",
            f"**{x['ratio']:.2f}** ({x['low']:.2f}-{x['high']:.2f})",
            f"{x['packed'] / x['together']:.2f}", f"{x['bare'] / x['turns']:.2f}",
            f"{x['mfu']:.3f}",
        ]
        for x in lines
    ]  # fmt: skip
    return (
        f"`python benchmarks/packed_gpu.py --write`, {on['date']}, {record['device']}; torch "
        f"{on['torch']}, peft {on['peft']}. Shape {lines[0]['shape']}, bf16, one row a slot; MFU "
        f"over {lines[0]['peak'] / 1e12:.0f} TFLOP/s, what this device's own 8192 x 8192 products "
        f"reach.\n\n{table([head, *rows])}\n\n{many['slots']} CURLoRA slots of rank 16 "
        f"resident: {many['bytes'] / 2**30:.2f} GiB, joined in {many['join_seconds']:.0f} s, "
        f"{many['tick_seconds'] * 1000:.0f} ms a tick."
    )


def verdict(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of the bars were reached, for rows of 64 tokens."""
    return [
        f"{x['kind']}, {x['slots']} slots: {x['ratio']:.2f}, bar {BARS[x['slots']]:g}: "
        + ("reached" if x["ratio"] >= BARS[x["slots"]] else "NOT reached")
        for x in lines
        if x["length"] == 64 and x["slots"] in BARS
    ]


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-1b")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--kinds", nargs="+", default=["curlora", "lora"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--slots", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the processes together")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--resident", type=int, default=RESIDENT)
    parser.add_argument("--write", action="store_true", help="keep the record and write the page")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("this needs a CUDA device, and there is none; --device cpu --shape tiny tries")
    lines = [
        line for kind in given.kinds for length in given.lengths
        for line in measure(given, kind, length)
    ]  # fmt: skip
    record = {
        "machine": machine(),
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        "lines": lines,
        "resident": resident(given),
    }
    print(page(record))
    print("\n".join(verdict(lines)))
    if given.write:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_section("packed gpu", page(record))


if __name__ == "__main__":
    main()
