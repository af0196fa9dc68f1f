"""The plain engine: one process, one device, torch's own AdamW."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curlora.retention.protocol import Retention
from curlora.transfers import read_together
from orchestrator.data.items import Example
from orchestrator.engines.base import BaseEngine
from orchestrator.engines.checkpoints import (
    ENGINE_FILE,
    flat_state,
    load_flat_state,
    optimizer_file,
    read_json,
    read_tensors,
    stepped_tensors,
    write_json,
    write_tensors,
)
from orchestrator.engines.linear_heads import LinearHeads
from orchestrator.engines.micro_batches import sharded_batch
from orchestrator.engines.optimizer import adamw, schedule_factor, seed_step, set_rates
from orchestrator.engines.workers import ALONE
from orchestrator.spec.sections import TrainingSpec


class PlainEngine(BaseEngine):
    """One process, one device, torch's own AdamW."""

    def __init__(
        self,
        model: Any,
        spec: TrainingSpec,
        *,
        batch_tokens: int | None = None,
        heads: LinearHeads | None = None,
        tokenizer: Any = None,
        retention: Retention | None = None,
    ) -> None:
        """Wrap a model for training.

        Args:
            model: What `curlora.attach` gave, or a bare base for evaluation only.
            spec: How to train.
            batch_tokens: Padded tokens per evaluation batch; None: what suits the device.
            heads: Linear heads of tasks that have one.
            tokenizer: Needed by `write` only.
            retention: What protects earlier tasks; None: nothing.
        """
        super().__init__(
            model, spec, workers=ALONE, batch_tokens=batch_tokens, heads=heads,
            tokenizer=tokenizer, retention=retention,
        )  # fmt: skip
        self._optimizer: torch.optim.AdamW | None = None

    def _fresh_optimizer(self) -> None:
        self._optimizer = adamw(self.trainable, self._spec)

    def _rewrite(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.trainable[name].copy_(value)

    def train_step(
        self, examples: Sequence[Example], step: int, replayed: Sequence[Example] = ()
    ) -> float:
        """Take one optimiser step; see `Engine`."""
        if self._optimizer is None:
            raise RuntimeError("`begin_task` must come before `train_step`.")
        seed_step(self._spec.seed, step, 0)
        self.scored.train()
        batch = sharded_batch(examples, replayed, self._workers, self._spec.accumulation)
        parts: list[Tensor] = []
        for micro in batch.micros:
            part, wanted = self._part(self.scored, batch, micro)
            (wanted / self._shares).backward()
            parts.append(part.detach())
        norm = nn.utils.clip_grad_norm_(
            list(self.trainable.values()), self._spec.max_grad_norm or math.inf
        )
        # The one time in a step that the host waits for the device.
        *losses, found = read_together([*parts, norm])
        if not math.isfinite(found):
            # Clipping by an infinite norm would silently make the step zero.
            return math.nan
        factor = schedule_factor(self._spec, step, self._steps)
        self._rate = self._spec.learning_rate * factor
        set_rates(self._optimizer, self._spec, factor)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._stepped(step)
        return functools.reduce(operator.add, losses, 0.0)

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write weights, the retention's state and, inside a task, optimiser state."""
        self._save_weights(folder)
        if with_optimizer and self._optimizer is not None:
            state = flat_state(self._optimizer, stepped_tensors(self._optimizer))
            write_tensors(folder / optimizer_file(0), state)
        write_json(folder / ENGINE_FILE, {"steps": self._steps, "world": 1})

    def load(self, folder: Path) -> None:
        """Go on from `save`: weights, and optimiser state when it was saved inside a task."""
        self._load_weights(folder)
        shard = folder / optimizer_file(0)
        self.load_retention(folder, inside=shard.is_file())
        if shard.is_file():
            self._steps = int(read_json(folder / ENGINE_FILE)["steps"])
            self._fresh_optimizer()
            assert self._optimizer is not None
            masters = stepped_tensors(self._optimizer)
            load_flat_state(self._optimizer, masters, read_tensors(shard))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Nothing is partitioned here."""
        yield
