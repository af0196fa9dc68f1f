"""What the plain and the DeepSpeed engine have in common: model, loss, retention, checkpoint.

Both give the same losses: an optimiser step is the mean over the *scored tokens* of the whole
batch, however many workers and micro-batches it is spread over, plus what the retention adds.

A checkpoint is a folder of safetensors and JSON: `weights.safetensors` (the trainable tensors),
`optimizer-rank<r>.safetensors` (each rank's shard of fp32 masters and moments),
`retention.safetensors` (what the retention carries) and `engine.json`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import curlora
from curlora.adapters.renewal import freeze_earlier, fresh_values, save_combined
from curlora.curvature.derivatives import observe
from curlora.curvature.layers import adapted_layers
from curlora.curvature.observation import Observation
from curlora.retention.protocol import Retention
from orchestrator.data.items import Example, Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.checkpoints import (
    RETENTION_FILE,
    WEIGHTS_FILE,
    load_tensors,
    read_tensors,
    write_tensors,
)
from orchestrator.engines.generation import prompt_batches, write_batch
from orchestrator.engines.linear_heads import HEADS_FILE, LinearHeads
from orchestrator.engines.micro_batches import MicroBatch, StepBatch
from orchestrator.engines.optimizer import reach
from orchestrator.engines.row_batches import (
    bucketed,
    heads_of,
    padded,
    scored_example,
    token_places,
)
from orchestrator.engines.scored_model import (
    Comparison,
    ScoredModel,
    hidden_size,
    trainable_parameters,
)
from orchestrator.engines.shards import (
    gather_texts,
    gather_values,
    hidden_states,
    run_shards,
    values_by_row,
)
from orchestrator.engines.workers import Workers
from orchestrator.spec.sections import TrainingSpec, default_batch_tokens
from orchestrator.spec.task_kinds import GenerationTask


class BaseEngine:
    """What both engines do alike."""

    def __init__(
        self,
        model: Any,
        spec: TrainingSpec,
        *,
        workers: Workers,
        batch_tokens: int | None,
        heads: LinearHeads | None,
        tokenizer: Any,
        retention: Retention | None,
    ) -> None:
        self._spec = spec
        self._workers = workers
        self._tokenizer = tokenizer
        self._model = model
        self._device = next(model.parameters()).device
        self._batch_tokens = batch_tokens or default_batch_tokens(
            on_gpu=self._device.type == "cuda"
        )
        self.scored = ScoredModel(model, heads and heads.to(self._device))
        self.trainable = trainable_parameters(self.scored)
        self.retention = retention or Retention()
        self.scored.retention = self.retention
        self.retention.bind(adapted_layers(model, self.scored.adapter))
        self._forward: Any = self.scored
        """What is called for a pass: the model, or what DeepSpeed wraps it in."""
        self._synced = False
        """Whether a worker that has written its texts goes on computing for the others (ZeRO-3)."""
        self._shares = workers.world * spec.accumulation
        self._merges = bool(curlora.merged_tensors(model))
        self._steps = 1
        self._rate = 0.0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return self._rate

    # ------------------------------------------------------------------ the retention's moments

    def begin_sequence(self, tasks: int, sources: Sequence[Sequence[Example]]) -> None:
        """Let the retention make room for a sequence and read its source sets."""
        most = self.retention.max_examples
        observed = [self._observe(found, f"source {i}", most) for i, found in enumerate(sources)]
        self.retention.begin_sequence(
            self._adapter_values(), tasks=tasks, observed=observed, total=self._totals
        )

    def begin_task(self, index: int, steps: int, examples: Sequence[Example] = ()) -> None:
        """Start a task with fresh optimiser state, and a fresh adapter where the retention asks."""
        self._steps = steps
        if self.retention.renews_adapter and index > 0:
            freeze_earlier(self._model, self.retention.earlier)
            self._rewrite(fresh_values(self._model, self._spec.seed * 1_000_003 + index))
        self._fresh_optimizer()
        looked_at = self._observe(examples, f"beginning {index}", self.retention.looks_at)
        self.retention.begin_task(
            self._adapter_values(),
            index,
            observed=looked_at,
            total=self._totals,
            reach=reach(self._spec, steps),
        )

    def end_task(self, index: int, examples: Sequence[Example]) -> None:
        """Let the retention take in what was learnt: curvature, buffers."""
        self.retention.end_task(
            self._adapter_values(),
            index,
            self._observe(examples, f"task {index}", self.retention.max_examples),
            self._totals,
            len(examples),
        )

    def _observe(self, examples: Sequence[Example], name: str, most: int) -> Iterator[Observation]:
        """This worker's share of the examples that the retention looks at, as it asks for them."""
        count = min(most, len(examples))
        if not self.retention.observes or not count:
            return
        chosen = random.Random(f"{self._spec.seed}/{name}").sample(list(examples), count)
        mine = chosen[self._workers.rank :: self._workers.world]
        # A ZeRO-3 forward is a collective, so no worker may run one example fewer than the others.
        padding = [chosen[-1]] * (self._workers.max_rows(count) - len(mine))
        self.scored.eval()

        def log_probability(example: Example) -> Tensor:
            row = scored_example(example)
            return self.scored(*padded([row], self._device), row.head).sum()

        found = observe(
            self._model, log_probability, self.scored.adapter, [*mine, *padding],
            self.retention.observes,
        )  # fmt: skip
        for number, observation in enumerate(found):
            self._after_observing()
            if number < len(mine):
                yield replace(observation, scored=len(scored_example(mine[number]).picks))

    def _after_observing(self) -> None:
        """Tidy up after gradients that were not taken by the engine's own backward pass."""

    def _totals(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._workers.totals(statistics, self._device)

    def _adapter_values(self) -> dict[str, Tensor]:
        """The adapter's tensors, whole."""
        return dict(self.scored.adapter)

    def _fresh_optimizer(self) -> None:
        raise NotImplementedError

    def _rewrite(self, values: Mapping[str, Tensor]) -> None:
        """Give trained tensors other values, masters of the optimiser included."""
        raise NotImplementedError

    # ------------------------------------------------------------------ answers

    def held_out_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss per scored token of examples that are not learnt, in nats."""
        found = self.log_probabilities([scored_example(example) for example in examples])
        values = [value for row in found for value in row]
        return -sum(values) / len(values)

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row; a collective, as all answers are."""
        self._forward.eval()
        with torch.no_grad():
            batches = bucketed(rows, self._batch_tokens * self._workers.world)
            mine = run_shards(batches, self._workers, partial(self._picks, rows))
        return gather_values(mine, [len(row.picks) for row in rows], self._workers, self._device)

    def _picks(self, rows: Sequence[Scored], own: list[int]) -> list[list[float]]:
        chosen = [rows[index] for index in own]
        found = self._forward(*padded(chosen, self._device), heads_of(chosen, self._device))
        return values_by_row(found, chosen)

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state at the first pick of every row: float32 (rows, hidden)."""
        self._forward.eval()
        return hidden_states(
            self._forward, rows, self._batch_tokens, hidden_size(self._model), self._workers,
            self._device,
        )  # fmt: skip

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str | None]:
        """What the model writes after each prompt; see `Engine`."""
        self._forward.eval()

        def written(own: list[int]) -> list[str | None]:
            chosen = [prompts[index] for index in own]
            return write_batch(
                self._model, self._tokenizer, chosen, task, self._device, synced=self._synced
            )

        batches = prompt_batches(prompts, task, self._batch_tokens * self._workers.world)
        mine = run_shards(batches, self._workers, written)
        return gather_texts(mine, len(prompts), self._workers)

    # ------------------------------------------------------------------ a step

    def _part(
        self, forward: Callable[..., tuple[Tensor, Tensor]], batch: StepBatch, micro: MicroBatch
    ) -> tuple[Tensor, Tensor]:
        """A micro-batch's share of the step's loss, and `shares` times what is to be minimised."""
        inputs = padded(micro.rows, self._device)
        comparison = self._comparison(batch, micro, inputs[0])
        found, extra = forward(*inputs, heads_of(micro.rows, self._device), comparison)
        part = -found.sum() / batch.scored * float(micro.counts)
        return part, part * self._shares + extra

    def _comparison(
        self, batch: StepBatch, micro: MicroBatch, input_ids: Tensor
    ) -> Comparison | None:
        shadow = self.retention.shadow
        if shadow is None or not any(micro.replayed):
            return None
        places = token_places(micro.rows, micro.replayed, self._device)
        with _swapped(self.scored.adapter, shadow), torch.no_grad():
            slow = self.scored.states(input_ids, places)
        return Comparison(places, slow, len(places) / batch.replayed_tokens * self._shares)

    def _stepped(self, step: int) -> None:
        """What follows an optimiser step."""
        if self._merges:
            before = {name: p._version for name, p in self.scored.adapter.items()}
            curlora.after_step(self._model, step + 1)
            written = [n for n, p in self.scored.adapter.items() if p._version != before[n]]
            self._rewrite({name: self.trainable[name].detach().clone() for name in written})
        self.retention.after_step(self.scored.adapter)

    # ------------------------------------------------------------------ on disk

    def save_adapter(self, folder: Path) -> None:
        """Write adapter and heads for use; within `gathered`, on rank 0."""
        if self.retention.renews_adapter:
            save_combined(self._model, folder)
        else:
            curlora.save_adapter(self._model, folder)
        if self.scored.heads is not None:
            write_tensors(folder / HEADS_FILE, self.scored.heads.named_tensors())

    def _save_weights(self, folder: Path) -> None:
        """The trained tensors, what was merged of them, and what the retention carries."""
        tensors = {name: parameter.detach() for name, parameter in self.trainable.items()}
        write_tensors(folder / WEIGHTS_FILE, tensors | curlora.merged_tensors(self._model))
        state = self.retention.state_dict()
        if state:
            write_tensors(folder / RETENTION_FILE, state)

    def _load_weights(self, folder: Path) -> None:
        load_tensors(self.trainable | curlora.merged_tensors(self._model), folder / WEIGHTS_FILE)

    def load_retention(self, folder: Path, *, inside: bool) -> None:
        """Put back what the retention carried.

        Args:
            folder: The checkpoint.
            inside: Whether it was written inside a task.
        """
        if not (folder / RETENTION_FILE).is_file():
            return
        self.retention.load_state_dict(read_tensors(folder / RETENTION_FILE))
        if self.retention.renews_adapter:
            earlier = self.retention.earlier
            # Between two tasks the last of them is still the one that is attached.
            freeze_earlier(self._model, earlier if inside else earlier[:-1])


@contextmanager
def _swapped(adapter: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Other values in an adapter's place for a while."""
    kept = {name: p.detach().clone() for name, p in adapter.items()}
    with torch.no_grad():
        for name, parameter in adapter.items():
            parameter.copy_(values[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in adapter.items():
                parameter.copy_(kept[name])
