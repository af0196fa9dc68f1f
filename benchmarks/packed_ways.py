"""A tick of a pack, and what stands beside it, in tokens per second: see `packed_gpu.py`."""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import packed_step
import torch
from random_llama import SIZES, random_llama
from torch import Tensor

import curlora
from curlora.packing.pack import PackedModel

PASS_TOKENS = 16384
"""Padded tokens of a pass, as in the pool on a GPU (`data.batch_tokens`)."""


@dataclass(frozen=True)
class Setting:
    """What a tick computes."""

    kind: str
    slots: int
    rows: int
    """Of each slot."""
    length: int

    @property
    def tokens(self) -> int:
        """Of a tick."""
        return self.slots * self.rows * self.length

    @property
    def slots_of_pass(self) -> int:
        """Slots whose rows share a pass."""
        return min(self.slots, max(1, PASS_TOKENS // (self.rows * self.length)))

    def __str__(self) -> str:
        return f"{self.kind}_{self.slots}x{self.rows}x{self.length}"


def wait_for(device: str) -> None:
    """Let the device finish."""
    if device == "cuda":
        torch.cuda.synchronize()


def clock_of(device: str) -> Callable[[Callable[[], None]], float]:
    """Wall seconds of some work, until the device has done it."""

    def clock(work: Callable[[], None]) -> float:
        wait_for(device)
        start = time.perf_counter()
        work()
        wait_for(device)
        return time.perf_counter() - start

    return clock


class Bench:
    """A base with all adapters that are measured on it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._device, self._given = given.device, given
        self._sizes = SIZES[given.shape]
        self.base: Any = random_llama(
            self._sizes, device=given.device, dtype=torch.bfloat16, tied=True
        )
        self._clock = clock_of(given.device)
        self.flops = packed_step.frozen_flops(self.base)
        self.peak = packed_step.matrix_flops(given.device, self._clock)
        # Both kinds share the pack: each has slots of its own.
        self._first = {kind: place * max(given.slots) for place, kind in enumerate(given.kinds)}
        capacity = len(given.kinds) * max(given.slots)
        self._pack = PackedModel(self.base, packed_step.TARGETS, capacity=capacity)
        self._known: dict[tuple[Any, ...], Any] = {}

    def measured(self, setting: Setting) -> dict[str, Any]:
        """Tokens per second of a setting, in every way."""
        self._fill(setting)
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        packed = setting.tokens / self._seconds(functools.partial(self._tick, setting))
        peak = torch.cuda.max_memory_allocated() if self._device == "cuda" else None
        pass_rows = setting.slots_of_pass * setting.rows
        ceiling = self._ceiling(pass_rows, setting.length, compiled=False)
        alone = self._alone(setting.kind, setting.rows, setting.length)
        return asdict(setting) | {
            "packed": packed, "alone": alone, "ceiling": ceiling, "gain": packed / alone,
            "of_ceiling": packed / ceiling, "mfu": packed * self.flops / self.peak,
            "ceiling_mfu": ceiling * self.flops / self.peak, "peak_bytes": peak,
        }  # fmt: skip

    def graph(self, setting: Setting) -> dict[str, Any]:
        """Tokens per second with the pass as a CUDA graph, or why that is not possible.

        Args:
            setting: One whose slots share one pass.

        Returns:
            Besides, how far the gradients then are from an ordinary pass's: they are added where
            they lie, so that a pass can be replayed.
        """
        self._fill(setting)
        found = self._tried(functools.partial(self._replayed, setting))
        return {"graph": found} if isinstance(found, str) else found

    def compiled(self, setting: Setting) -> dict[str, Any]:
        """Tokens per second of a setting and of its ceiling by `torch.compile`."""
        self._fill(setting)
        pass_rows = setting.slots_of_pass * setting.rows
        ceiling = functools.partial(self._ceiling, pass_rows, setting.length, compiled=True)
        return {
            "compiled": self._tried(functools.partial(self._compiled, setting)),
            "ceiling_compiled": self._tried(ceiling),
        }

    def _fill(self, setting: Setting) -> None:
        settings = packed_step.SETTINGS[setting.kind] | {"target_modules": packed_step.TARGETS}
        for slot in self._slots(setting):
            if slot not in self._pack.slots:
                self._pack.join(slot, setting.kind, settings, seed=slot)

    def _slots(self, setting: Setting) -> range:
        first = self._first[setting.kind]
        return range(first, first + setting.slots)

    def _tokens(self, rows: int, length: int) -> Tensor:
        draw = torch.Generator().manual_seed(length)
        size = (rows, length + 1)
        tokens = torch.randint(0, self._sizes.vocabulary, size, generator=draw)
        return tokens.to(self._device)

    def _seconds(self, work: Callable[[], None]) -> float:
        """The median of some runs, the first left out: two at least, ten at most."""
        self._clock(work)
        times: list[float] = []
        while len(times) < 2 or (len(times) < 10 and sum(times) < self._given.each):
            times.append(self._clock(work))
        return statistics.median(times)

    @staticmethod
    def _tried(way: Callable[[], Any]) -> Any:
        """What a way that may not be possible gives, or why it is not possible."""
        try:
            return way()
        except Exception as error:  # noqa: BLE001 (what a compiler raises is not known beforehand)
            return f"{type(error).__name__}: {error}"[:500]

    # ------------------------------------------------------------------ the ways

    def _passes(self, setting: Setting) -> list[list[int]]:
        slots, each = list(self._slots(setting)), setting.slots_of_pass
        return [slots[start : start + each] for start in range(0, len(slots), each)]

    def _forward_backward(
        self, slots: Sequence[int], rows: int, tokens: Tensor, model: Any = None
    ) -> None:
        with self._pack.rows([slot for slot in slots for _ in range(rows)]):
            losses = packed_step.losses(model or self.base, tokens, len(slots))
            total = torch.stack(losses).sum()
        total.backward()

    def _step(self, setting: Setting) -> None:
        self._pack.step(
            dict.fromkeys(self._slots(setting), 1e-3), weight_decay=0.01, max_norm=1.0
        )  # fmt: skip

    def _tick(self, setting: Setting, model: Any = None) -> None:
        for slots in self._passes(setting):
            tokens = self._cached_tokens(len(slots) * setting.rows, setting.length)
            self._forward_backward(slots, setting.rows, tokens, model)
        self._step(setting)

    def _cached_tokens(self, rows: int, length: int) -> Tensor:
        return self._once(("tokens", rows, length), lambda: self._tokens(rows, length))

    def _once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _alone(self, kind: str, rows: int, length: int) -> float:
        def measure() -> float:
            solo: Any = self._pack.solo(self._first[kind])
            optimizer = torch.optim.AdamW(
                curlora.trainable_parameters(solo).values(), lr=1e-3, weight_decay=0.01
            )
            tokens = self._cached_tokens(rows, length)

            def step() -> None:
                packed_step.losses(solo.base_model.model, tokens, 1)[0].backward()
                packed_step.one_step(solo, optimizer)

            return rows * length / self._seconds(step)

        return self._once(("alone", kind, rows, length), measure)

    def _ceiling(self, rows: int, length: int, *, compiled: bool) -> float:
        def measure() -> float:
            tokens = self._cached_tokens(rows, length)
            model = self.base
            if compiled:
                model = self._compiled_base()

            def step() -> None:
                packed_step.losses(model, tokens, 1)[0].backward()

            # The backward pass has to reach the lowest layer, as a tick's does.
            embeddings = self.base.get_input_embeddings()
            hook = embeddings.register_forward_hook(lambda _m, _i, out: out.requires_grad_())
            try:
                return rows * length / self._seconds(step)
            finally:
                hook.remove()

        return self._once(("ceiling", rows, length, compiled), measure)

    def _replayed(self, setting: Setting) -> dict[str, Any]:
        (slots,) = self._passes(setting)
        tokens = self._cached_tokens(len(slots) * setting.rows, setting.length)
        work = functools.partial(self._forward_backward, slots, setting.rows, tokens)
        graph = _captured(work)
        try:
            apart = self._apart(slots, work, graph.replay)

            def tick() -> None:
                graph.replay()
                self._step(setting)

            return {"graph": setting.tokens / self._seconds(tick), "graph_apart": apart}
        finally:
            graph.reset()
            torch.cuda.empty_cache()  # what a graph has held is not used again by another

    def _apart(self, slots: Sequence[int], *ways: Callable[[], None]) -> float:
        """The largest difference between the gradients of two ways, by the largest gradient."""
        found: list[list[Tensor]] = []
        for way in ways:
            for slot in slots:
                self._pack.zero_gradients(slot)
            way()
            found.append([g for slot in slots for g in self._pack.gradients(slot).values()])
        gaps = [(a - b).abs().max() for a, b in zip(*found, strict=True)]
        return float(torch.stack(gaps).max() / torch.stack([g.abs().max() for g in found[0]]).max())

    def _compiled_base(self) -> Any:
        return SimpleNamespace(model=torch.compile(self.base.model), lm_head=self.base.lm_head)

    def _compiled(self, setting: Setting) -> float:
        """The tick with all but the adapted layers compiled."""
        layers = [layer.module for layer in self._pack.layers.values()]
        own = [layer.forward for layer in layers]
        try:
            for layer, forward in zip(layers, own, strict=True):
                layer.forward = torch.compiler.disable(_called(forward))
            model = self._compiled_base()
            return setting.tokens / self._seconds(functools.partial(self._tick, setting, model))
        finally:
            for layer, forward in zip(layers, own, strict=True):
                layer.forward = forward


def _captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Some work as a CUDA graph; it runs three times before it is captured."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def _called(layer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A layer as a function, which is what a compiler leaves alone."""

    def forward(x: Tensor) -> Tensor:
        return layer(x)

    return forward
