"""Every adapter, every retention and every quantised base on a device: the parts of `gpu_same.py`.

What a device computes is compared with what a CPU does, in fp32. An adapter may start from other
numbers on the device, such as singular vectors of the other sign: that is told and is no fault, and
what is compared then is the adapter of the CPU, moved to the device.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from random_llama import SIZES, random_llama
from torch import Tensor

import curlora
from curlora.peft_bridge import keep_as_quantised
from curlora.retention.learner import Learner
from curlora.targets import QUANTISATION_BITS
from curlora_kinds.adapters.table import ADAPTERS, quantisation_refuses
from curlora_kinds.retentions.table import RETENTIONS

SETTINGS = {"r": 4, "target_modules": ["q_proj", "v_proj"], "effective_rank": 12, "alpha": 4.0}
"""Given to an adapter as far as it has such settings."""
SMALL = SIZES["tiny"]
TASKS, EXAMPLES, STEPS = 2, 8, 3
AS_ON_CPU = 1e-4
"""Largest relative difference of a loss from a CPU's."""


def parts(device: str) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """The name of each part, and what computes it."""
    for kind in ADAPTERS:
        yield f"adapter_{kind}", partial(adapter, kind, device)
    for kind in RETENTIONS:
        yield f"retention_{kind}", partial(retention, kind, device)
    for form in QUANTISATION_BITS:
        yield f"quantised_{form}", partial(quantised, form, device)


def rows_of(task: int) -> list[Tensor]:
    """The examples of a task, of mixed lengths."""
    draw = torch.Generator().manual_seed(task)
    lengths = [5 + 3 * (i % 4) for i in range(EXAMPLES)]
    return [torch.randint(1, SMALL.vocabulary, (n,), generator=draw) for n in lengths]


def collate(device: str, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """A padded batch with its labels, as a trainer's collator makes it."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    labels = padded.masked_fill(mask == 0, -100)
    batch = {"input_ids": padded, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def attached(kind: str, device: str) -> Any:
    """A small base in fp32, drawn on the CPU, with an adapter attached on the device."""
    base = random_llama(SMALL, device="cpu", dtype=torch.float32, spread=0.1).to(device)
    known = ADAPTERS[kind].settings
    given = {name: value for name, value in SETTINGS.items() if name in known}
    text = [row[None] for row in rows_of(9)] if ADAPTERS[kind].reads_text else None
    return curlora.attach(base, kind, given, seed=1, text=text)


def learnt(model: Any, kind: str, device: str, rate: float = 1e-3) -> list[float]:
    """The losses of two tasks of three steps each under a retention."""
    learner = Learner(model, RETENTIONS[kind].build(), tasks=TASKS, seed=0)
    losses: list[float] = []
    for task in range(TASKS):
        rows, batches = rows_of(task), partial(collate, device)
        learner.renew_adapter()
        optimizer = torch.optim.AdamW(learner.params.values(), lr=rate)
        learner.begin(rows, batches, reach=lambda: rate * STEPS)
        for step in range(STEPS):
            batch = batches([*rows[:4], *learner.replayed(4, step)])
            loss = model(**batch).loss + learner.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            learner.after_step(step + 1)
            losses.append(float(loss.detach()))
        learner.end()
    return losses


def compared(here: Sequence[float], there: Sequence[float], **more: Any) -> dict[str, Any]:
    """Losses of a device beside a CPU's."""
    gap = max(abs(a / b - 1) for a, b in zip(here, there, strict=True))
    finite = all(map(math.isfinite, here))
    return {"losses": list(here), "from_cpu": gap, "ok": finite and gap <= AS_ON_CPU, **more}


def adapter(kind: str, device: str) -> dict[str, Any]:
    """Steps of one adapter on the device and on a CPU."""
    here, there = (attached(kind, place) for place in (device, "cpu"))
    if not curlora.trainable_parameters(here):  # a head that is trained elsewhere
        with torch.no_grad():
            found = [
                float(model(**collate(place, rows_of(0))).loss)
                for model, place in ((here, device), (there, "cpu"))
            ]
        return compared(found[:1], found[1:])
    same_start = _same(here.state_dict(), there.state_dict())
    if not same_start:
        here = copy.deepcopy(there).to(device)
    losses = [learnt(model, "none", place) for model, place in ((here, device), (there, "cpu"))]
    found = compared(*losses, same_start=same_start, moved=not same_start)
    return found | {"ok": found["ok"] and losses[0][STEPS - 1] < losses[0][0]}


def _same(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> bool:
    """Whether tensors are the same up to rounding."""
    return all(torch.allclose(t.cpu(), there[n], rtol=1e-4, atol=1e-5) for n, t in here.items())


def retention(kind: str, device: str) -> dict[str, Any]:
    """Two tasks under a retention, on the device and on a CPU."""
    refused = RETENTIONS[kind].refuses
    with_kind = next(name for name in ("curlora", "lora") if refused(name) is None)
    here, there = (
        learnt(attached(with_kind, place), kind, place) for place in (device, "cpu")
    )  # fmt: skip
    return compared(here, there, adapter=with_kind)


def quantised(form: str, device: str) -> dict[str, Any]:
    """A quantised base with CURLoRA and with LoRA learns."""
    package = "torchao" if form == "torchao_int8" else "bitsandbytes"
    if importlib.util.find_spec(package) is None:
        return {"left_out": f"{package} is not installed"}
    found: dict[str, Any] = {"ok": True}
    with tempfile.TemporaryDirectory() as folder:
        random_llama(SMALL, device="cpu", dtype=torch.bfloat16, spread=0.1).save_pretrained(folder)
        for kind in ("curlora", "lora"):
            if (reason := quantisation_refuses(kind, form)) is not None:
                found[kind] = reason
                continue
            base = quantised_base(folder, form, device)
            settings = {"r": 4, "alpha": 4.0, "target_modules": SETTINGS["target_modules"]}
            model: Any = curlora.attach(base, kind, settings, seed=1)
            # Steps that stand out from what few bits round.
            losses = learnt(model, "none", device, rate=2e-2)[:STEPS]
            found[kind] = losses
            found["ok"] = found["ok"] and losses[-1] < losses[0]
    return found


def quantised_base(folder: str, form: str, device: str) -> Any:
    """A saved base, its linear layers quantised as they are read."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

    config: Any
    if form == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    elif form == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig())
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=config, device_map={"": device}
    )
    for module in base.modules():
        keep_as_quantised(module)
    return base.requires_grad_(False).eval()
