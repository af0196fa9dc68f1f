"""What a training step costs with an adapter, against the same step with the base alone.

    .venv/bin/python benchmarks/adapter_step.py              # measures and prints
    .venv/bin/python benchmarks/adapter_step.py --write      # and keeps it: json, RESULTS.md
    .venv/bin/python benchmarks/adapter_step.py --ranks 16 --targets all-linear --only auto \
        --rounds 40                                          # one case, closely
    .venv/bin/python benchmarks/adapter_step.py --shape llama-1b --write   # needs a CUDA device
    .venv/bin/python benchmarks/adapter_step.py --shape tiny --rounds 2    # tries it

The *frozen step* is forward, loss, and backward down to the input embeddings with nothing trained.
All cases share the base's weights, the tokens and that depth of the backward pass. In every round
each case takes one step in a shuffled order, directly between two frozen steps, and is divided by
their mean: what disturbs the machine for longer than a step disturbs both.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import math
import os
import random
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where the project is not installed

import torch
from gpu_record import Record, add_record_options, seconds_left
from peft import LoraConfig, get_peft_model
from random_llama import SIZES, Sizes, random_llama
from results_page import ROOT, machine, write_section
from results_page import table as markdown_table
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from curlora import CurloraConfig

RECORD = ROOT / "benchmarks" / "adapter_step.json"
SECTION = "adapter step"
MIB = 2**20
TARGETS: dict[str, str | list[str]] = {
    "all-linear": "all-linear",
    "q, k, v": ["q_proj", "k_proj", "v_proj"],
}
FORMS = ("explicit", "output_reuse", "input_side", "fused", "auto")
FROZEN = "frozen"


@dataclass(frozen=True)
class Shape:
    """A base with random weights, and a batch."""

    sizes: Sizes
    batch: int
    length: int
    device: str
    dtype: torch.dtype


SHAPES = {
    "tiny": Shape(SIZES["tiny"], 2, 16, "cpu", torch.bfloat16),
    "cpu": Shape(SIZES["cpu"], 8, 128, "cpu", torch.float32),
    "llama-1b": Shape(SIZES["llama-1b"], 8, 512, "cuda", torch.bfloat16),
    "llama-8b": Shape(SIZES["llama-8b"], 4, 512, "cuda", torch.bfloat16),
}


class PublishedLayer(nn.Module):
    """CURLoRA as its author's code computes it: a dense C U R, made again at every step.

    References:
        Fawi (2024), Eq. 8, and the published code. https://arxiv.org/abs/2408.14572
    """

    C: Tensor
    R: Tensor

    def __init__(self, base: nn.Linear, rank: int, draw: torch.Generator) -> None:
        """Wrap a linear layer.

        Args:
            base: The frozen layer.
            rank: Columns and rows that are kept.
            draw: Where the columns and rows come from; which they are does not change the cost.
        """
        super().__init__()
        weight = base.weight.detach()
        columns = torch.randperm(weight.shape[1], generator=draw)[:rank].to(weight.device)
        rows = torch.randperm(weight.shape[0], generator=draw)[:rank].to(weight.device)
        self.base_layer = base
        self.register_buffer("C", weight[:, columns])
        self.register_buffer("R", weight[rows])
        self.U = nn.Parameter(torch.zeros(rank, rank, device=weight.device, dtype=weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Add x (C U R)' to the output of the base (..., d_out)."""
        return self.base_layer(x) + x @ (self.C @ self.U @ self.R).t()


class Case:
    """A model, and its training step without the optimiser."""

    def __init__(self, name: str, model: nn.Module, tokens: Tensor) -> None:
        """Keep what a step needs.

        Args:
            name: Its line in the table.
            model: A causal language model.
            tokens: Token ids (batch, length + 1).
        """
        self.name = name
        self.model = model.train()
        self._inputs, self._wanted = tokens[:, :-1].contiguous(), tokens[:, 1:].reshape(-1)
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def step(self) -> None:
        """Forward, loss, and backward to the adapter and the input embeddings."""
        logits = self.model(input_ids=self._inputs, use_cache=False).logits
        nn.functional.cross_entropy(logits.flatten(0, 1).float(), self._wanted).backward()
        for parameter in self.trained:
            parameter.grad = None

    def seconds(self) -> tuple[float, float]:
        """Wall seconds of a step, and seconds of this process on cores."""
        on_device = self._inputs.is_cuda
        if on_device:
            torch.cuda.synchronize()
        wall, cores = time.perf_counter(), time.process_time()
        self.step()
        if on_device:
            torch.cuda.synchronize()
        return time.perf_counter() - wall, time.process_time() - cores

    def kept_bytes(self) -> int:
        """Bytes of the distinct storages that autograd saves, without parameters and buffers."""
        old = {
            t.untyped_storage().data_ptr()
            for t in (*self.model.parameters(), *self.model.buffers())
        }
        kept: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in old:
                kept[storage.data_ptr()] = storage  # held, so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.step()
        return sum(storage.nbytes() for storage in kept.values())

    def peak_bytes(self) -> int | None:
        """What a step needs at most above what was there before it.

        Returns:
            On CUDA what was allocated; on Linux the growth of the resident set; elsewhere None.
        """
        gc.collect()
        if self._inputs.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated() - before
        reset = Path("/proc/self/clear_refs")
        if not reset.exists():
            return None
        # Free memory that the allocator holds would hide what the step asks for.
        ctypes.CDLL(None).malloc_trim(0)
        reset.write_text("5")
        before = _status("VmRSS")
        self.step()
        return _status("VmHWM") - before


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)[0]) * 1024


def frozen_base(shape: Shape) -> LlamaForCausalLM:
    """A frozen random Llama whose embeddings ask for a gradient, the same every time."""
    base = random_llama(
        shape.sizes, device=shape.device, dtype=shape.dtype, positions=2 * shape.length
    )
    base.get_input_embeddings().register_forward_hook(lambda _, __, out: out.requires_grad_())
    return base


def cases(base: nn.Module, shape: Shape, targets: str, rank: int) -> list[Case]:
    """Every way to train an adapter, the frozen base first.

    Args:
        base: Whose weights all share.
        shape: Of its batches.
        targets: A key of `TARGETS`.
        rank: Of every adapter.

    Returns:
        The cases.
    """
    draw = torch.Generator().manual_seed(rank)
    size = (shape.batch, shape.length + 1)
    tokens = torch.randint(0, shape.sizes.vocabulary, size, generator=draw).to(shape.device)
    named = TARGETS[targets]

    def fresh() -> Any:
        return copy.deepcopy(base, memo={id(p): p for p in base.parameters()})

    def lora(**settings: Any) -> nn.Module:
        cast = settings.pop("autocast_adapter_dtype", True)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=named, **settings)
        return get_peft_model(fresh(), config, autocast_adapter_dtype=cast)

    def published() -> nn.Module:
        model = fresh()
        for name, layer in list(model.named_modules()):
            chosen = name.endswith(tuple(named)) if isinstance(named, list) else name != "lm_head"
            if isinstance(layer, nn.Linear) and chosen:
                model.set_submodule(name, PublishedLayer(layer, rank, draw))
        return model

    found: dict[str, nn.Module] = {FROZEN: fresh()}
    for form in FORMS:
        config = CurloraConfig(r=rank, target_modules=named, form=form)
        found[f"CURLoRA, {form}"] = get_peft_model(fresh(), config)
    found["CURLoRA, as published"] = published()
    found["PEFT LoRA"] = lora()
    if shape.dtype != torch.float32:  # where the adapter's dtype is not the base's anyway
        found["PEFT LoRA, adapter in 16 bits"] = lora(autocast_adapter_dtype=False)
    found["PEFT DoRA"] = lora(use_dora=True)
    if shape.dtype != torch.float32:
        found["PEFT DoRA, adapter in 16 bits"] = lora(use_dora=True, autocast_adapter_dtype=False)
    return [Case(name, model, tokens) for name, model in found.items()]


def keep_freed_memory() -> None:
    """Let the allocator keep what a step frees, where it is glibc's.

    By default it gives pages back and asks for new ones as it sees fit: some forty thousand page
    faults a step of the shape `cpu`, more or fewer from one case to the next for no reason of the
    case's own.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # the numbers of glibc's malloc.h
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def measured(
    shape_name: str,
    targets: str,
    rank: int,
    rounds: int,
    wanted: Callable[[str], bool],
    until: float = math.inf,
) -> dict[str, Any]:
    """Measure one table.

    Args:
        shape_name: A key of `SHAPES`.
        targets: A key of `TARGETS`.
        rank: Of every adapter.
        rounds: How often each case takes its turn.
        wanted: Which cases, by name; the frozen base always.
        until: When, by `time.monotonic`, no third or further round is begun.

    Returns:
        The facts and a line for each case.
    """
    shape = SHAPES[shape_name]
    everything = cases(frozen_base(shape), shape, targets, rank)
    frozen, others = everything[0], [case for case in everything[1:] if wanted(case.name)]
    load = os.getloadavg()
    lines: dict[str, dict[str, Any]] = {}
    for case in (frozen, *others):
        case.step()
        lines[case.name] = {
            "kept_bytes": case.kept_bytes(),
            "peak_bytes": case.peak_bytes(),
        }
    ratios: dict[str, list[tuple[float, float]]] = {case.name: [] for case in others}
    order = random.Random(0)
    floors = [frozen.seconds()]
    for done in range(rounds):
        if done >= 2 and time.monotonic() > until:
            rounds = done
            break
        order.shuffle(others)
        for case in others:
            own = case.seconds()
            floors.append(frozen.seconds())
            around = zip(*floors[-2:], strict=True)
            wall, cores = (
                mine / statistics.mean(floor) for mine, floor in zip(own, around, strict=True)
            )
            ratios[case.name].append((wall, cores))
    for name, pairs in ratios.items():
        walls, cores = zip(*pairs, strict=True)
        lines[name] |= {"wall": _spread(walls), "cores": _spread(cores)}
    walls, cores = zip(*floors, strict=True)
    return {
        "shape": shape_name,
        "targets": targets,
        "rank": rank,
        "rounds": rounds,
        "machine": {
            **machine(("torch", "peft", "transformers")),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if shape.device == "cuda" else "cpu",
        },
        "load_average": [round(load[0], 1), round(os.getloadavg()[0], 1)],
        "frozen_seconds": {
            "wall": statistics.median(walls),
            "cores": statistics.median(cores),
        },
        "cases": lines,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


# --------------------------------------------------------------------------------- what is shown

COLUMNS = ("", "step, wall", "step, core seconds", "kept for backward", "peak of a step")


def table(part: Mapping[str, Any]) -> str:
    """One table in Markdown."""
    seconds, frozen = part["frozen_seconds"], part["cases"][FROZEN]
    rows = [
        COLUMNS,
        (
            FROZEN,
            f"{seconds['wall'] * 1000:.0f} ms",
            f"{seconds['cores'] * 1000:.0f} ms",
            f"{frozen['kept_bytes'] / MIB:.1f} MiB",
            "unknown" if frozen["peak_bytes"] is None else f"{frozen['peak_bytes'] / MIB:.0f} MiB",
        ),
    ]
    for name, line in part["cases"].items():
        if name == FROZEN:
            continue
        peak = line["peak_bytes"]
        rows.append((
            name,
            *(
                f"{line[kind]['median']:.3f} ({line[kind]['low']:.3f}-{line[kind]['high']:.3f})"
                for kind in ("wall", "cores")
            ),
            f"{line['kept_bytes'] / frozen['kept_bytes']:.3f}",
            "unknown" if peak is None else f"{peak / frozen['peak_bytes']:.3f}",
        ))  # fmt: skip
    (before, after), on = part["load_average"], part["machine"]
    facts = (
        f"**Rank {part['rank']}, {part['targets']}**: {part['rounds']} rounds, {on['date']}, "
        f"{on['threads']} threads on {on['cores']} cores of {on['cpu']}, device {on['device']}, "
        f"load average {before:g} at the start and {after:g} at the end; Python {on['python']}, "
        f"torch {on['torch']}, peft {on['peft']}, transformers {on['transformers']}."
    )
    return f"{facts}\n\n{markdown_table(rows)}"


def section(parts: Sequence[Mapping[str, Any]]) -> str:
    """What stands in the page: of every shape what it is, and its tables."""
    found = [
        "Ratios to the frozen step (forward, loss, backward to the input embeddings, nothing "
        "trained) directly before and after: median and quartiles over rounds. *Kept* counts the "
        "distinct storages that autograd saves, without parameters and buffers. *Peak* is the "
        "growth of the resident set during a step on the CPU, of the allocated memory on CUDA. "
        "*As published* builds the dense C U R at every step. The allocator keeps freed memory, "
        "so that page faults do not blur the comparison. Wall time suffers from what else runs, "
        "core seconds less."
    ]
    for name in dict.fromkeys(part["shape"] for part in parts):
        shape, sizes = SHAPES[name], SHAPES[name].sizes
        found.append(
            f"### Shape `{name}`\n\n"
            f"`python benchmarks/adapter_step.py --shape {name} --write`: Llama with random "
            f"weights, hidden {sizes.hidden}, MLP {sizes.mlp}, {sizes.layers} layers, "
            f"{sizes.heads}/{sizes.kv_heads} heads, vocabulary {sizes.vocabulary}; "
            f"{str(shape.dtype).removeprefix('torch.')}; batches of {shape.batch} x {shape.length} "
            "tokens, all scored."
        )
        found += [table(part) for part in parts if part["shape"] == name]
    return "\n\n".join(found)


def keep(part: Mapping[str, Any]) -> None:
    """Put a table in the place of an earlier one of the same shape, targets and rank."""
    parts = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else []
    names = list(SHAPES), list(TARGETS)

    def place(one: Mapping[str, Any]) -> tuple[int, int, int]:
        return names[0].index(one["shape"]), names[1].index(one["targets"]), one["rank"]

    by_place = {place(one): one for one in [*parts, part]}
    ordered = [by_place[key] for key in sorted(by_place)]
    RECORD.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    write_section(SECTION, section(ordered))


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="cpu")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--ranks", nargs="+", type=int, default=[8, 16, 64])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[], help="names, or parts of names, of cases")
    add_record_options(parser, seconds=math.inf)
    parser.add_argument("--write", action="store_true", help="keep the record and write the page")
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error(f"--rounds must be at least 2 to have a spread, got {given.rounds}")
    if SHAPES[given.shape].device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--shape {given.shape} needs a CUDA device, and there is none")
    return given


def main() -> None:
    """Measure and print."""
    given = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    keep_freed_memory()

    def wanted(name: str) -> bool:
        return not given.only or any(part in name for part in given.only)

    given.device, given.tiny = SHAPES[given.shape].device, given.shape == "tiny"
    until = time.monotonic() + seconds_left(given)
    record = Record(given, echo=False)
    for targets in given.targets:
        for rank in given.ranks:
            work = partial(measured, given.shape, targets, rank, given.rounds, wanted, until)
            part = record.part(f"rank {rank}, {targets}", work)
            if part is not None:
                print(table(part), end="\n\n", flush=True)
                if given.write:
                    keep(part)
    sys.exit(not record.end())


if __name__ == "__main__":
    main()
