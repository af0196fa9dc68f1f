"""How much a packed step gains over adapters taking turns, in useful tokens per second.

    .venv/bin/python benchmarks/packed_step.py
    .venv/bin/python benchmarks/packed_step.py --threads 2 --kinds curlora --dtypes bfloat16

K slots train on one frozen base, all of its linear layers adapted, loss at the last token of each
row. One *packed tick* (a forward and a backward pass of all slots, an optimiser step of each) is
compared with K solo steps taking turns on the same rows (`curlora.attach`, and AdamW as torch has
it), and with a naive loop: one pass of the base for all rows in which every adapted layer goes
through the adapters in Python. Ways alternate, and a ratio is the median of neighbours' ratios.
Times are seconds of the process on its cores, divided by the threads: waiting for a core that
others use is not counted, but what they do to caches and clock is.

A solo model needs its own wrapped base; all of them share the base's tensors.
"""

from __future__ import annotations

import argparse
import functools
import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import curlora
from curlora.causal_rows import causal_rows
from curlora.packing.pack import BARE, PackedModel

DEMO_BASE = Path(__file__).parents[1] / ".demo" / "SmolLM2-135M-Instruct"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SETTINGS: dict[str, dict[str, Any]] = {
    "curlora": {"r": 16},
    "lora": {"r": 16, "alpha": 16.0},
    "dora": {"r": 16, "alpha": 16.0},
}


def smollm2(dtype: torch.dtype) -> nn.Module:
    """Give SmolLM2-135M where the demonstration has it, else random weights of its shape."""
    # Eager attention: the backward pass of the fused kernels is slower on a CPU at this length.
    if DEMO_BASE.exists():
        model = AutoModelForCausalLM.from_pretrained(
            DEMO_BASE, dtype=dtype, attn_implementation="eager"
        )
    else:
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            attn_implementation="eager",
        )
        model = LlamaForCausalLM(config).to(dtype)
    return model.eval()


def losses(base: Any, tokens: Tensor, slots: int) -> list[Tensor]:
    """Give the mean loss at the last token of every slot's rows."""
    with causal_rows(base.model):
        hidden = base.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    # The scored positions only, and contiguous: a strided 16-bit operand is very slow on a CPU.
    logits = base.lm_head(hidden[:, -1].contiguous()).float()
    each = cross_entropy(logits, tokens[:, -1], reduction="none")
    return list(each.view(slots, -1).mean(1))


def seconds(work: Callable[[], None], threads: int) -> float:
    """Time some work."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / threads


def frozen_flops(base: nn.Module) -> int:
    """Give the floating-point operations of a frozen base for one token, forward and backward.

    Args:
        base: The model, not wrapped yet.

    Returns:
        4 N, with N the weights of the linear layers inside the blocks: the output layer works where
        a row is scored, once a row, and the embedding is looked up.
    """
    return 4 * sum(
        layer.weight.numel()
        for name, layer in base.named_modules()
        if isinstance(layer, nn.Linear) and not name.endswith("lm_head")
    )


def matrix_flops(device: str, clock: Callable[[Callable[[], None]], float]) -> float:
    """What bf16 matrix products alone reach, in floating-point operations a second of the clock."""
    # Large enough for the device's peak; on a CPU of the base's order, where more does not gain.
    size = 8192 if device == "cuda" else 1024
    left = torch.randn(size, size, device=device).to(torch.bfloat16)
    return 2 * size**3 / min(clock(lambda: left @ left) for _ in range(10))


@contextmanager
def looping(base: nn.Module, solos: Sequence[nn.Module], rows: int) -> Iterator[None]:
    """Meanwhile every adapted layer of a base adds each adapter's update to that adapter's rows."""
    adapted = [_updates(solo) for solo in solos]
    modules = {name: base.get_submodule(name) for name in adapted[0]}

    def forward(name: str, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        parts = zip(x.split(rows), adapted, strict=True)
        return plain(x) + torch.cat([updates[name](part) for part, updates in parts])

    before = {name: module.forward for name, module in modules.items()}
    for name, module in modules.items():
        module.forward = functools.partial(forward, name, before[name])
    try:
        yield
    finally:
        for name, module in modules.items():
            module.forward = before[name]


def _updates(solo: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """What each adapted layer of a model adds to the base's output, by the layer's name."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, module in solo.base_model.model.named_modules():
        if hasattr(module, "cur_U"):
            found[name] = functools.partial(_cur_update, module.factors("default"), module.cur_U)
        elif hasattr(module, "lora_A"):
            found[name] = functools.partial(_lora_update, module)
    return found


def _cur_update(factors: Any, core: Any, x: Tensor) -> Tensor:
    return x @ factors.R.t() @ core["default"].to(x.dtype).t() @ factors.C.t()


def _lora_update(layer: Any, x: Tensor) -> Tensor:
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return x @ down.to(x.dtype).t() @ up.to(x.dtype).t() * layer.scaling["default"]


def one_step(solo: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Clip and step, as somebody would who trains this adapter alone."""
    nn.utils.clip_grad_norm_(curlora.trainable_parameters(solo).values(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def measure(
    base: nn.Module,
    kind: str,
    slots: int,
    rows: int,
    length: int,
    repeats: int,
    clock: Callable[[Callable[[], None]], float],
    *,
    naive: bool = True,
) -> dict[str, float]:
    """Measure one setting.

    Args:
        base: A frozen Llama; it is wrapped again for every adapter.
        kind: A key of `SETTINGS`.
        slots: Adapters.
        rows: Of each adapter in a tick.
        length: Tokens of a row.
        repeats: Rounds.
        clock: Times some work.
        naive: Measure the loop over the adapters as well (DoRA has none).

    Returns:
        Medians: seconds of a packed tick, of the K solo steps, of the same base with all rows
        bare, of a naive loop over the adapters (not for DoRA), and of the packed optimiser; and
        the ratio of turns to ticks, with its quartiles.
    """
    settings = SETTINGS[kind] | {"target_modules": TARGETS}
    pack = PackedModel(base, TARGETS, capacity=slots)
    for slot in range(slots):
        pack.join(slot, kind, settings, seed=slot)
    solos = [pack.solo(slot) for slot in range(slots)]
    optimizers = [
        torch.optim.AdamW(curlora.trainable_parameters(solo).values(), lr=1e-3, weight_decay=0.01)
        for solo in solos
    ]
    vocabulary, device = base.get_input_embeddings().weight.shape[0], next(base.parameters()).device
    tokens = torch.randint(0, vocabulary, (slots * rows, length + 1), device=device)
    slot_of_row = [slot for slot in range(slots) for _ in range(rows)]

    def forward_backward(of_rows: list[int]) -> None:
        with pack.rows(of_rows):
            total = torch.stack(losses(base, tokens, slots)).sum()
        total.backward()

    def step() -> None:
        pack.step(dict.fromkeys(range(slots), 1e-3), weight_decay=0.01, max_norm=1.0)

    def turns() -> None:
        for slot, (solo, optimizer) in enumerate(zip(solos, optimizers, strict=True)):
            own = tokens[slot * rows : (slot + 1) * rows]
            losses(solo.base_model.model, own, 1)[0].backward()
            one_step(solo, optimizer)

    embeddings: Any = base.get_input_embeddings()

    def bare() -> None:
        # The backward pass has to reach the lowest layer, as a tick's does.
        hook = embeddings.register_forward_hook(lambda _m, _i, out: out.requires_grad_())
        forward_backward([BARE] * len(slot_of_row))
        hook.remove()

    def loop() -> None:
        with looping(base, solos, rows):
            torch.stack(losses(base, tokens, slots)).sum().backward()
        for solo, optimizer in zip(solos, optimizers, strict=True):
            one_step(solo, optimizer)

    ways = {
        "passes": lambda: forward_backward(slot_of_row), "step": step, "turns": turns, "bare": bare,
        **({"loop": loop} if naive and kind != "dora" else {}),
    }  # fmt: skip
    times = alternated(ways, repeats, clock)
    times["tick"] = [a + b for a, b in zip(times["passes"], times["step"], strict=True)]
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [turn / tick for tick, turn in zip(times["tick"], times["turns"], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return medians | {"ratio": ratio, "low": low, "high": high}


def alternated(
    ways: Mapping[str, Callable[[], None]],
    repeats: int,
    clock: Callable[[Callable[[], None]], float],
) -> dict[str, list[float]]:
    """Time some ways in turns; the first time, when everything is allocated, does not count."""
    rounds = [{name: clock(work) for name, work in ways.items()} for _ in range(repeats + 1)]
    return {name: [found[name] for found in rounds[1:]] for name in ways}


def main() -> None:
    """Measure every setting that the command line names, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=["curlora", "lora"], choices=SETTINGS)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        "| adapter | dtype | rows x tokens a slot | turns, tokens/s | packed, tokens/s "
        "| turns / packed (quartiles) | naive loop / packed | bare base / tick "
        "| optimiser / tick |\n" + "|---" * 9 + "|"
    )
    for kind in options.kinds:
        for dtype in options.dtypes:
            for rows in options.rows:
                torch.manual_seed(0)
                found = measure(
                    smollm2(getattr(torch, dtype)),
                    kind,
                    options.slots,
                    rows,
                    options.length,
                    options.repeats,
                    functools.partial(seconds, threads=options.threads),
                )
                gc.collect()
                tokens = options.slots * rows * options.length
                print(
                    f"| {kind} | {dtype} | {rows} x {options.length} "
                    f"| {tokens / found['turns']:.0f} | {tokens / found['tick']:.0f} "
                    f"| {found['ratio']:.2f} ({found['low']:.2f}-{found['high']:.2f}) "
                    f"| {found.get('loop', math.nan) / found['tick']:.2f} "
                    f"| {found['bare'] / found['tick']:.2f} "
                    f"| {found['step'] / found['tick']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
