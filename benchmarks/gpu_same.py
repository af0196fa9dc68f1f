"""Whether a GPU computes what a CPU does, and a pack on it what its adapters compute alone.

    python benchmarks/gpu_same.py                        # on a GPU
    python benchmarks/gpu_same.py --device cpu --tiny    # tries it

Needs torch, transformers and peft only. The parts, each with numbers and whether they are `ok`:

- packed: slots of CURLoRA, LoRA, rsLoRA and DoRA, rows of mixed lengths in one padded batch, ten
  steps; losses, gradients and trained numbers against solo models with torch's AdamW;
- as on a CPU: the same pack's losses on both devices;
- bf16: distances of packed and solo losses from the solo ones in fp32, root mean squares;
- generation: greedy continuations of mixed lengths, packed and solo;
- repeated: whether the same pass gives the same bits twice;
- adapters and retentions, one by one, and quantised bases: `gpu_methods.py`.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where the project is not installed

import gpu_methods
import torch
from gpu_record import Record, given_options, parser_of
from gpu_rows import DECAY, MOST, RATE, Solo, batch_of, losses_of
from random_llama import SIZES, Sizes, random_llama
from torch import Tensor

from curlora.packing.pack import PackedModel

TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]
SLOTS: list[tuple[str, dict[str, Any]]] = [
    ("curlora", {"r": 8, "alpha": 1.5}),
    ("curlora", {"r": 8, "alpha": 0.7}),  # the selection of the first
    ("curlora", {"r": 4, "temperature": 2.0}),
    ("lora", {"r": 8, "alpha": 16.0}),
    ("rslora", {"r": 5, "alpha": 4.0}),
    ("dora", {"r": 4, "alpha": 8.0}),
]
LENGTHS = (7, 64, 23, 41)
"""Tokens of a slot's rows in turn."""
STEPS = 10
FP32 = 1e-4
"""Largest relative difference in fp32. AdamW's first steps follow the sign of a gradient, so what
rounding does to one near zero is felt in full."""
BF16 = 2.0
"""The packed distance from fp32 at most, as a multiple of the solo one."""


def rows_at(step: int, vocabulary: int) -> list[tuple[int, Tensor]]:
    """Two rows of each slot, of mixed lengths."""
    draw = torch.Generator().manual_seed(step)
    made: list[tuple[int, Tensor]] = []
    for slot in range(len(SLOTS)):
        for row in range(2):
            length = LENGTHS[(slot + row + step) % len(LENGTHS)]
            made.append((slot, torch.randint(0, vocabulary, (length,), generator=draw)))
    return made


@dataclass
class Course:
    """What ten steps of all slots gave."""

    losses: list[list[float]]
    """By step and slot."""
    gradients: list[dict[str, Tensor]]
    """Of the first step, by slot."""
    trained: list[dict[str, Tensor]]


def packed_course(pack: PackedModel, vocabulary: int, device: str) -> Course:
    """Train all slots of a pack together."""
    losses: list[list[float]] = []
    gradients: list[dict[str, Tensor]] = []
    for step in range(STEPS):
        batch = batch_of(rows_at(step, vocabulary), device)
        with pack.rows(batch.rows):
            found = losses_of(pack.base, batch)
        torch.stack(list(found.values())).sum().backward()
        gradients = gradients or [pack.gradients(slot) for slot in pack.slots]
        pack.step(dict.fromkeys(pack.slots, RATE), weight_decay=DECAY, max_norm=MOST)
        losses.append([float(found[slot].detach()) for slot in pack.slots])
    return Course(losses, gradients, [pack.state(slot) for slot in pack.slots])


def solo_course(solos: Sequence[Solo], vocabulary: int, device: str) -> Course:
    """Train every adapter by itself on the same rows."""
    losses: list[list[float]] = []
    gradients: list[dict[str, Tensor]] = []
    for step in range(STEPS):
        rows = rows_at(step, vocabulary)
        losses.append([])
        for slot, solo in enumerate(solos):
            loss = solo.backward(batch_of([row for row in rows if row[0] == slot], device))
            losses[-1].append(float(loss))
            if step == 0:
                grads = {n: p.grad.clone() for n, p in solo.params.items() if p.grad is not None}
                gradients.append(grads)
            solo.step()
    trained = [{n: p.detach().clone() for n, p in solo.params.items()} for solo in solos]
    return Course(losses, gradients, trained)


def pack_on(sizes: Sizes, device: str, dtype: torch.dtype) -> PackedModel:
    """All slots on a base whose weights are bf16 numbers, drawn on the CPU, in a dtype."""
    base = random_llama(sizes, device="cpu", dtype=torch.bfloat16, spread=0.05)
    pack = PackedModel(base.to(device=device, dtype=dtype), TARGETS, capacity=len(SLOTS))
    for slot, (kind, settings) in enumerate(SLOTS):
        pack.join(slot, kind, settings, seed=slot)
    return pack


def largest(found: Sequence[dict[str, Tensor]], wanted: Sequence[dict[str, Tensor]]) -> float:
    """The largest difference between tensors of slots, each by its tensor's largest number."""
    worst = 0.0
    for own, others in zip(found, wanted, strict=True):
        for name, tensor in own.items():
            gap = (tensor - others[name].to(tensor)).abs().max()
            worst = max(worst, float(gap / others[name].abs().max().clamp_min(1e-12)))
    return worst


def apart(found: Course, wanted: Course) -> list[float]:
    """Relative differences of all losses."""
    pairs = zip(found.losses, wanted.losses, strict=True)
    return [abs(a / b - 1) for own, other in pairs for a, b in zip(own, other, strict=True)]


def mean_square(values: Sequence[float]) -> float:
    """The root of the mean square."""
    return math.sqrt(sum(value * value for value in values) / len(values))


class Courses:
    """Courses by device, dtype and way, each computed once."""

    def __init__(self, sizes: Sizes) -> None:
        self._vocabulary = sizes.vocabulary
        self._pack = functools.cache(functools.partial(pack_on, sizes))
        self.get: Callable[..., Course] = functools.cache(self._course)

    def _course(self, device: str, dtype: torch.dtype, way: str) -> Course:
        pack = self._pack(device, dtype)
        for slot, (kind, settings) in enumerate(SLOTS):  # each course begins afresh
            if slot in pack.slots:
                pack.leave(slot)
            pack.join(slot, kind, settings, seed=slot)
        if way == "packed":
            return packed_course(pack, self._vocabulary, device)
        solos = [Solo(pack.solo(slot)) for slot in pack.slots]
        return solo_course(solos, self._vocabulary, device)

    def in_fp32(self, device: str) -> dict[str, Any]:
        """Packed against solo."""
        packed, solo = (self.get(device, torch.float32, way) for way in ("packed", "solo"))
        found = {
            "losses": max(apart(packed, solo)),
            "gradients": largest(packed.gradients, solo.gradients),
            "trained": largest(packed.trained, solo.trained),
        }
        return found | {"ok": found["losses"] <= FP32 and found["gradients"] <= FP32}

    def as_on_cpu(self, device: str) -> dict[str, Any]:
        """The pack on this device against the pack on a CPU."""
        here, there = (self.get(place, torch.float32, "packed") for place in (device, "cpu"))
        found = {
            "losses": max(apart(here, there)),
            "gradients": largest([{n: t.cpu() for n, t in g.items()} for g in here.gradients],
                                 there.gradients),
        }  # fmt: skip
        return found | {"ok": found["losses"] <= FP32}

    def in_bf16(self, device: str) -> dict[str, Any]:
        """How far packed and solo are from fp32."""
        exact = self.get(device, torch.float32, "solo")
        packed, solo = (
            mean_square(apart(self.get(device, torch.bfloat16, way), exact))
            for way in ("packed", "solo")
        )
        return {"packed": packed, "solo": solo, "ratio": packed / solo, "ok": packed / solo <= BF16}

    def generation(self, device: str) -> dict[str, Any]:
        """Greedy continuations of trained slots, packed and solo."""
        trained = self.get(device, torch.float32, "packed").trained
        pack = self._pack(device, torch.float32)
        for slot, state in enumerate(trained):
            pack.load_state(slot, state)
        draw = torch.Generator().manual_seed(5)
        prompts = [torch.randint(3, self._vocabulary, (n,), generator=draw) for n in (3, 9, 17)]
        longest = max(map(len, prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
        options = {
            "attention_mask": (ids > 0).long().to(device), "max_new_tokens": 12,
            "do_sample": False, "pad_token_id": 0,
        }  # fmt: skip
        same = []
        for slot in pack.slots:
            with torch.no_grad():
                with pack.rows([slot] * len(prompts)):
                    packed = _written(pack.base, ids.to(device), options)
                same.append(packed == _written(pack.solo(slot), ids.to(device), options))
        return {"same": same, "ok": all(same)}

    def repeated(self, device: str) -> dict[str, Any]:
        """Whether one pass gives the same bits twice; no promise, but good to know."""
        pack = self._pack(device, torch.float32)
        batch, found = batch_of(rows_at(0, self._vocabulary), device), []
        for _ in range(2):
            with pack.rows(batch.rows):
                losses = losses_of(pack.base, batch)
            torch.stack(list(losses.values())).sum().backward()
            found.append([pack.gradients(slot) for slot in pack.slots])
            for slot in pack.slots:
                pack.zero_gradients(slot)
        pairs = [(a[n], b[n]) for a, b in zip(*found, strict=True) for n in a]
        return {"same_bits": all(torch.equal(a, b) for a, b in pairs)}


def _written(model: Any, ids: Tensor, options: dict[str, Any]) -> list[list[int]]:
    return model.generate(input_ids=ids, **options).tolist()


def main() -> None:
    """Compute, print and keep every part."""
    given = given_options(parser_of(__doc__, seconds=100))
    torch.set_float32_matmul_precision("highest")  # no TF32: these are comparisons in fp32
    record = Record(given)
    courses = Courses(SIZES["tiny" if given.tiny else "small"])
    for name, work in (
        ("packed_fp32", courses.in_fp32), ("as_on_cpu", courses.as_on_cpu),
        ("packed_bf16", courses.in_bf16), ("generation", courses.generation),
        ("repeated", courses.repeated),
    ):  # fmt: skip
        record.part(name, functools.partial(work, given.device))
    for name, work in gpu_methods.parts(given.device):
        record.part(name, work)
    sys.exit(not record.end())


if __name__ == "__main__":
    main()
