"""What the plain and the DeepSpeed engine have in common: model, loss, answers, checkpoint.

Both give the same losses: an optimiser step is the mean over the *scored tokens* of the whole
batch, however many workers and micro-batches it is spread over, plus what the retention adds.
Checkpoints are described in `engines.checkpoints`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import curlora
from curlora.adapters.renewal import freeze_earlier, save_combined
from curlora.curvature.derivatives import observe
from curlora.curvature.layers import adapted_layers
from curlora.curvature.observation import Observation
from curlora.retention.protocol import Retention
from orchestrator.data.items import Example, Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.checkpoints import (
    RETENTION_FILE,
    WEIGHTS_FILE,
    carried_along,
    load_tensors,
    named_tensors,
    read_tensors,
    save_weights,
    write_tensors,
)
from orchestrator.engines.generation import prompt_batches, write_batch
from orchestrator.engines.joint_rows import JointRows, layout_of
from orchestrator.engines.linear_heads import HEADS_FILE, LinearHeads
from orchestrator.engines.micro_batches import MicroBatch, StepBatch
from orchestrator.engines.retention_phases import RetentionPhases, log_probability
from orchestrator.engines.row_batches import (
    heads_of,
    mean_loss,
    padded,
    scored_example,
    scoring_batches,
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


class BaseEngine(RetentionPhases):
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
        device = next(model.parameters()).device
        super().__init__(retention or Retention(), spec, workers, device)
        self._tokenizer = tokenizer
        self._model = model
        self._batch_tokens = batch_tokens or default_batch_tokens(
            on_gpu=self._device.type == "cuda"
        )
        self.scored = ScoredModel(model, heads and heads.to(self._device))
        self._joint = JointRows(self.scored.base, workers)
        self.trainable = trainable_parameters(self.scored)
        self.scored.retention = self.retention
        self.retention.bind(adapted_layers(model, self.scored.adapter))
        self._forward: Any = self.scored
        """What is called for a pass: the model, or what DeepSpeed wraps it in."""
        self._synced = False
        """Whether a worker that has written its texts goes on computing for the others (ZeRO-3)."""
        self._shares = workers.world * spec.accumulation
        self._merges = bool(curlora.merged_tensors(model))
        self._rate = 0.0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return self._rate

    # ------------------------------------------------------------------ for the retention

    def _fresh(self, index: int) -> None:
        if fresh := self._renewed(self._model, index):
            self._rewrite(fresh)
        self._fresh_optimizer()

    def _derivatives(self, examples: Sequence[Example]) -> Iterator[Observation]:
        self.scored.eval()
        found = observe(
            self._model,
            partial(log_probability, self.scored, device=self._device),
            self.scored.adapter,
            examples,
            self.retention.observes,
        )
        for observation in found:
            self._after_observing()
            yield observation

    def _after_observing(self) -> None:
        """Tidy up after gradients that were not taken by the engine's own backward pass."""

    def adapter_values(self) -> dict[str, Tensor]:
        """The adapter's tensors."""
        return dict(self.scored.adapter)

    @abstractmethod
    def _fresh_optimizer(self) -> None:
        """Forget moments and steps."""

    @abstractmethod
    def _rewrite(self, values: Mapping[str, Tensor]) -> None:
        """Give trained tensors other values, masters of the optimiser included."""

    # ------------------------------------------------------------------ answers

    def held_out_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss per scored token of examples that are not learnt, in nats."""
        return mean_loss(self.log_probabilities([scored_example(e) for e in examples]))

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row; a collective, as all answers are."""
        self._forward.eval()
        with torch.no_grad():
            parts = self._joint.parts(rows, self._batch_tokens, self._read)
            tokens = self._batch_tokens * self._workers.world
            batches = scoring_batches(parts.rows, tokens, self._device)
            mine = run_shards(
                batches, self._workers, lambda own: self._read([parts.rows[index] for index in own])
            )
        sizes = [len(row.picks) for row in parts.rows]
        return parts.values(gather_values(mine, sizes, self._workers, self._device))

    def _read(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of some rows, in one pass of this worker."""
        found = self._forward(
            *padded(rows, self._device), heads_of(rows, self._device),
            layout=layout_of(rows, self._device),
        )  # fmt: skip
        return values_by_row(found, rows)

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state at the first pick of every row: float32 (rows, hidden)."""
        self._forward.eval()

        def states(own: Sequence[Scored]) -> Tensor:
            input_ids, positions, _ = padded(own, self._device)
            return self._forward(input_ids, positions, None)

        return hidden_states(
            states, rows, self._batch_tokens, hidden_size(self._model), self._workers,
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
        save_weights(
            folder, tensors | curlora.merged_tensors(self._model), self.retention.state_dict()
        )

    def _load_weights(self, folder: Path) -> None:
        load_tensors(self.trainable | curlora.merged_tensors(self._model), folder / WEIGHTS_FILE)

    def load_learnt(self, folder: Path, follows: tuple[str, ...]) -> None:
        """Go on from what another trial has learnt of the task that has just begun.

        Args:
            folder: What `save` wrote of that trial at the task's end, or a part of it.
            follows: How the names of those tensors of the retention's state begin that follow the
                trained ones step by step.

        Raises:
            ValueError: If its tensors are not those of this trial.
        """
        carried, merged = carried_along(folder, follows), curlora.merged_tensors(self._model)
        tensors = named_tensors(folder / WEIGHTS_FILE, self.trainable | merged)
        with torch.no_grad():
            for name, tensor in merged.items():
                tensor.copy_(tensors[name])
        self._rewrite({name: tensors[name] for name in self.trainable})
        self.retention.follow(carried)

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
