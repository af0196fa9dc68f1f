"""Who computes: a base model with an adapter, a plain engine, and a DeepSpeed engine.

Both engines share the model wrapper, the loss and the checkpoint format, and give the same losses:
an optimiser step is the mean over the *scored tokens* of the whole batch, however many workers and
micro-batches it is spread over, plus what the retention adds.

A checkpoint is a folder of safetensors and JSON: `weights.safetensors` (the trainable tensors),
`optimizer-rank<r>.safetensors` (each rank's shard of fp32 masters and moments),
`retention.safetensors` (what the retention carries) and `engine.json`.
"""

from __future__ import annotations

import io
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

import curlora
from curlora.curvature import adapted_layers, observe
from curlora.peft_bridge import cast_adapter_buffers
from curlora.renewal import freeze_earlier, fresh_values, save_combined
from curlora.retention.protocol import Observation, Retention
from orchestrator.base_model import partitioned
from orchestrator.batches import Scored
from orchestrator.checkpoints import (
    flat_state,
    load_flat_state,
    load_tensors,
    read_json,
    read_tensors,
    stepped_tensors,
    write_json,
    write_tensors,
)
from orchestrator.communication_op import keep_in_environment
from orchestrator.encoding import Example, Tokens
from orchestrator.experiment import TrainingSpec, default_batch_tokens
from orchestrator.optimisation import adamw, reach, schedule_factor, seed_step, set_rates
from orchestrator.scored_model import (
    HEADS_FILE,
    Comparison,
    LinearHeads,
    ScoredModel,
    bucketed,
    first_pick,
    heads_of,
    hidden_size,
    padded,
    scored_example,
    token_places,
    trainable_parameters,
)
from orchestrator.tasks import GenerationTask, render_validation_error, suggestion
from orchestrator.writing import prompt_batches, write_batch

WEIGHTS_FILE = "weights.safetensors"
RETENTION_FILE = "retention.safetensors"
LARGEST_NORM = math.sqrt(torch.finfo(torch.float32).max)
"""A gradient's norm from here on has no finite square, and neither has AdamW's second moment."""


@dataclass
class _Place:
    """Which worker this is."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class _Micro:
    """One worker's rows of one forward pass."""

    rows: list[Scored]
    replayed: list[bool]
    counts: bool
    """Whether they are part of the batch, not computed only because others wait."""


@dataclass(frozen=True)
class _Batch:
    """One worker's part of an optimiser step."""

    micros: list[_Micro]
    scored: int
    """Scored tokens of the whole step, over all workers."""
    replayed_tokens: int
    """Tokens of replayed rows of the whole step."""


def _dealt(
    examples: Sequence[Example], replayed: Sequence[Example], place: _Place, accumulation: int
) -> _Batch:
    """This worker's micro-batches of a step."""
    # Examples are dealt out by length so that workers have equal work. A worker without an example
    # computes one all the same, with weight 0: the others wait for it in the collectives.
    marked = [*((e, False) for e in examples), *((e, True) for e in replayed)]
    ordered = sorted(marked, key=lambda pair: -len(pair[0].tokens))
    rows = [(scored_example(example), again) for example, again in ordered]
    shares = place.world * accumulation
    micros: list[_Micro] = []
    for micro in range(accumulation):
        own = rows[micro * place.world + place.rank :: shares]
        used = own or rows[-1:]
        # A row that does not count is compared with nothing, either.
        flags = [again and bool(own) for _, again in used]
        micros.append(_Micro([row for row, _ in used], flags, bool(own)))
    return _Batch(
        micros,
        scored=sum(len(row.picks) for row, _ in rows),
        replayed_tokens=sum(len(row.tokens) for row, again in rows if again),
    )


class _Engine:
    """What both engines do alike."""

    def __init__(
        self,
        model: Any,
        spec: TrainingSpec,
        *,
        place: _Place,
        batch_tokens: int | None,
        heads: LinearHeads | None,
        tokenizer: Any,
        retention: Retention | None,
    ) -> None:
        self._spec = spec
        self._place = place
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
        self._shares = place.world * spec.accumulation
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
            self._adapter_values(), tasks=tasks, observed=observed, total=self._total
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
            total=self._total,
            reach=reach(self._spec, steps),
        )

    def end_task(self, index: int, examples: Sequence[Example]) -> None:
        """Let the retention take in what was learnt: curvature, buffers."""
        self.retention.end_task(
            self._adapter_values(),
            index,
            self._observe(examples, f"task {index}", self.retention.max_examples),
            self._total,
            len(examples),
        )

    def _observe(self, examples: Sequence[Example], name: str, most: int) -> Iterator[Observation]:
        """This worker's share of the examples that the retention looks at, as it asks for them."""
        count = min(most, len(examples))
        if not self.retention.observes or not count:
            return
        chosen = random.Random(f"{self._spec.seed}/{name}").sample(list(examples), count)
        mine = chosen[self._place.rank :: self._place.world]
        # A ZeRO-3 forward is a collective, so nobody may run one example fewer than the others.
        whole = -(-count // self._place.world)
        padding = [chosen[-1]] * (whole - len(mine))
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

    def _total(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over all workers."""
        return statistics

    def _adapter_values(self) -> dict[str, Tensor]:
        """The adapter's tensors, whole."""
        return dict(self.scored.adapter)

    def held_out_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss per scored token of examples that are not learnt, in nats."""
        found = self.log_probabilities([scored_example(example) for example in examples])
        values = [value for row in found for value in row]
        return -sum(values) / len(values)

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row."""
        raise NotImplementedError

    def _fresh_optimizer(self) -> None:
        raise NotImplementedError

    def _rewrite(self, values: Mapping[str, Tensor]) -> None:
        """Give trained tensors other values, masters of the optimiser included."""
        raise NotImplementedError

    # ------------------------------------------------------------------ a step

    def _part(
        self, forward: Callable[..., tuple[Tensor, Tensor]], batch: _Batch, micro: _Micro
    ) -> tuple[Tensor, Tensor]:
        """A micro-batch's share of the step's loss, and `shares` times what is to be minimised."""
        inputs = padded(micro.rows, self._device)
        comparison = self._comparison(batch, micro, inputs[0])
        found, extra = forward(*inputs, heads_of(micro.rows, self._device), comparison)
        part = -found.sum() / batch.scored * float(micro.counts)
        return part, part * self._shares + extra

    def _comparison(self, batch: _Batch, micro: _Micro, input_ids: Tensor) -> Comparison | None:
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


class PlainEngine(_Engine):
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
            model, spec, place=_Place(), batch_tokens=batch_tokens, heads=heads,
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
        batch = _dealt(examples, replayed, self._place, self._spec.accumulation)
        loss = 0.0
        for micro in batch.micros:
            part, wanted = self._part(self.scored, batch, micro)
            (wanted / self._shares).backward()
            loss += float(part.detach())
        norm = nn.utils.clip_grad_norm_(
            list(self.trainable.values()), self._spec.max_grad_norm or math.inf
        )
        if not bool(torch.isfinite(norm)):
            # Clipping by an infinite norm would silently make the step zero.
            return math.nan
        factor = schedule_factor(self._spec, step, self._steps)
        self._rate = self._spec.learning_rate * factor
        set_rates(self._optimizer, self._spec, factor)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._stepped(step)
        return loss

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row."""
        self.scored.eval()
        result: list[list[float]] = [[] for _ in rows]
        with torch.inference_mode():
            for batch in bucketed(rows, self._batch_tokens):
                chosen = [rows[index] for index in batch]
                values = self.scored(*padded(chosen, self._device), chosen[0].head).tolist()
                for index, row in zip(batch, chosen, strict=True):
                    result[index], values = values[: len(row.picks)], values[len(row.picks) :]
        return result

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state at the first pick of every row: float32 (rows, hidden)."""
        self.scored.eval()
        result = torch.zeros((len(rows), hidden_size(self.scored.model)))
        with torch.inference_mode():
            for batch in bucketed(rows, self._batch_tokens):
                chosen = [first_pick(rows[index]) for index in batch]
                input_ids, positions, _ = padded(chosen, self._device)
                result[batch] = self.scored(input_ids, positions, None).cpu()
        return result

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str | None]:
        """What the model writes after each prompt; see `Engine`."""
        self.scored.eval()
        result: list[str | None] = [None] * len(prompts)
        for batch in prompt_batches(prompts, task, self._batch_tokens):
            texts = write_batch(
                self.scored.model, self._tokenizer, [prompts[i] for i in batch], task, self._device
            )
            for index, text in zip(batch, texts, strict=True):
                result[index] = text
        return result

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write weights, the retention's state and, inside a task, optimiser state."""
        self._save_weights(folder)
        if with_optimizer and self._optimizer is not None:
            state = flat_state(self._optimizer, stepped_tensors(self._optimizer))
            write_tensors(folder / "optimizer-rank0.safetensors", state)
        write_json(folder / "engine.json", {"steps": self._steps, "world": 1})

    def load(self, folder: Path) -> None:
        """Go on from `save`: weights, and optimiser state when it was saved inside a task."""
        self._load_weights(folder)
        shard = folder / "optimizer-rank0.safetensors"
        self.load_retention(folder, inside=shard.is_file())
        if shard.is_file():
            self._steps = int(read_json(folder / "engine.json")["steps"])
            self._fresh_optimizer()
            assert self._optimizer is not None
            masters = stepped_tensors(self._optimizer)
            load_flat_state(self._optimizer, masters, read_tensors(shard))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Nothing is partitioned here."""
        yield


class DeepSpeedEngine(_Engine):
    """One of n workers under a DeepSpeed engine, ZeRO 0 to 3."""

    def __init__(
        self,
        model: Any,
        spec: TrainingSpec,
        *,
        batch_tokens: int | None = None,
        weights: Path | None = None,
        heads: LinearHeads | None = None,
        tokenizer: Any = None,
        retention: Retention | None = None,
    ) -> None:
        """Initialise DeepSpeed around a model; a collective call, torch.distributed must be up.

        Args:
            model: What `curlora.attach` gave, with its full weights on every worker.
            spec: How to train; `deepspeed` is passed through.
            batch_tokens: Padded tokens per evaluation batch and worker; None: see
                `default_batch_tokens`.
            weights: A checkpoint folder whose weights replace the adapter's and heads' fresh ones.
            heads: Linear heads of tasks that have one.
            tokenizer: Needed by `write` only.
            retention: What protects earlier tasks; None: nothing.
        """
        import deepspeed

        place = _Place(torch.distributed.get_rank(), torch.distributed.get_world_size())
        super().__init__(
            model, spec, place=place, batch_tokens=batch_tokens, heads=heads, tokenizer=tokenizer,
            retention=retention,
        )  # fmt: skip
        if weights is not None:
            self._load_weights(weights)
        if spec.precision == "bf16":
            cast_adapter_buffers(model, torch.bfloat16)
        config = deepspeed_config(spec, place.world)
        self._stage = int(config["zero_optimization"]["stage"])
        own_optimizer = "optimizer" in config
        client = None if own_optimizer else adamw(self.trainable, spec)
        self._engine: Any
        self._engine, _, _, self._scheduler = deepspeed.initialize(
            model=self.scored,
            model_parameters=list(self.trainable.values()),  # type: ignore[arg-type]
            optimizer=client,
            config=config,
            dist_init_required=False,
        )
        if self._stage == 3:
            for reader, parameter in self._read_elsewhere():
                deepspeed.zero.register_external_parameter(reader, parameter)
        self._optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        self._fresh_schedule = self._schedule() if "scheduler" in config else None

    def _read_elsewhere(self) -> Iterator[tuple[nn.Module, nn.Parameter]]:
        """Parameters that a module reads without owning them: ZeRO-3 has to be told of each."""
        for module in self.scored.modules():
            for child in module.children():
                # Such a dictionary is never called, so nothing gathers what it holds.
                if isinstance(child, nn.ParameterDict | nn.ParameterList):
                    yield from ((module, parameter) for parameter in child.parameters())
        if self.retention.kind != "none":
            # The retention reads the adapter within the forward of the whole, not of its layers.
            yield from ((self.scored, parameter) for parameter in self.scored.adapter.values())

    def _fresh_optimizer(self) -> None:
        for state in self._optimizer.state.values():
            for key, value in state.items():
                state[key] = value.zero_() if isinstance(value, Tensor) else type(value)(0)
        if self._fresh_schedule is not None:
            self._set_schedule(self._fresh_schedule)

    def _rewrite(self, values: Mapping[str, Tensor]) -> None:
        masters = self._separate_masters()
        with torch.no_grad():
            for name, value in values.items():
                parameter = self.trainable[name]
                if self._stage < 3:
                    parameter.copy_(value)
                self._write_master(parameter, value.float(), masters)

    def _separate_masters(self) -> dict[int, Tensor]:
        """The fp32 copies that DeepSpeed keeps beside half-precision parameters without ZeRO.

        They are known to the optimiser's wrapper alone: `safe_set_full_fp32_param` finds none, and
        the next step would copy their old values over what was written into a parameter.

        Returns:
            By the parameter's `id`; a view where a group's masters lie in one flat tensor.
        """
        wrapper = self._engine.optimizer
        halves: list[list[Tensor]] = getattr(wrapper, "fp16_groups", [])
        found: dict[int, Tensor] = {}
        for half, whole in zip(halves, getattr(wrapper, "fp32_groups", []), strict=False):
            found |= {id(parameter): m for parameter, m in zip(half, whole, strict=True)}
        for half, flat in zip(halves, getattr(wrapper, "fp32_groups_flat", []), strict=False):
            sizes = [parameter.numel() for parameter in half]
            views = flat.detach()[: sum(sizes)].split(sizes)
            found |= {id(p): view.view_as(p) for p, view in zip(half, views, strict=True)}
        return found

    def _write_master(
        self, parameter: nn.Parameter, value: Tensor, masters: Mapping[int, Tensor]
    ) -> None:
        """Write a trained tensor's fp32 master, wherever DeepSpeed keeps it.

        Raises:
            NotImplementedError: If it is nowhere to be found: what was written into the parameter
                would be undone by the next step.
        """
        from deepspeed.utils import safe_set_full_fp32_param

        if self._engine.optimizer is self._optimizer:
            return  # the parameter is its own master
        if id(parameter) in masters:
            masters[id(parameter)].copy_(value)
        elif hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
            safe_set_full_fp32_param(parameter, value)
        else:
            raise NotImplementedError(
                f"DeepSpeed's {type(self._engine.optimizer).__name__} keeps masters that cannot be "
                "written, and this method gives trained tensors new values. Use another stage of "
                "`training.deepspeed.zero_optimization`, or `precision: fp32`."
            )

    def _after_observing(self) -> None:
        if self._stage == 3:
            # Gradients of single tensors do not run the hooks by which layers let go of weights.
            self._engine.empty_partition_cache()

    def _adapter_values(self) -> dict[str, Tensor]:
        if self._stage < 3:
            return dict(self.scored.adapter)
        with self.gathered():
            return {name: p.detach().clone() for name, p in self.scored.adapter.items()}

    def _total(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        summed: dict[str, Tensor] = {}
        for name, tensor in statistics.items():
            summed[name] = tensor.to(self._device).clone()
            torch.distributed.all_reduce(summed[name])
        return summed

    def _schedule(self) -> dict[str, Any]:
        """DeepSpeed's own schedule: its state, and the rates that it set last."""
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        return {"state": dict(self._scheduler.state_dict()), "rates": rates}

    def _set_schedule(self, schedule: Mapping[str, Any]) -> None:
        self._scheduler.load_state_dict(dict(schedule["state"]))
        for group, rate in zip(self._optimizer.param_groups, schedule["rates"], strict=True):
            group["lr"] = rate

    def train_step(
        self, examples: Sequence[Example], step: int, replayed: Sequence[Example] = ()
    ) -> float:
        """Take one optimiser step together with the other workers; see `Engine`."""
        seed_step(self._spec.seed, step, self._place.rank)
        self._engine.train()
        batch = _dealt(examples, replayed, self._place, self._spec.accumulation)
        factor = schedule_factor(self._spec, step, self._steps)
        self._rate = self._spec.learning_rate * factor
        if self._fresh_schedule is None:
            set_rates(self._optimizer, self._spec, factor)
        own = torch.zeros((), device=self._device)
        norm: Any = None
        for micro in batch.micros:
            part, wanted = self._part(self._engine, batch, micro)
            # DeepSpeed averages over workers and micro-batches.
            self._engine.backward(wanted)
            if self._stage == 0:
                # Without ZeRO, DeepSpeed clips plain gradients and does not keep their norm.
                found = [p.grad for p in self.trainable.values() if p.grad is not None]
                norm = torch.nn.utils.get_total_norm(found)
            self._engine.step()
            own += part.detach()
        kept = self._engine.get_global_grad_norm()
        norm = norm if kept is None else kept
        # Where the norm is not finite, ZeRO says -1, or skips the step and says so. ZeRO 3 adds up
        # its squares in float64, so what is too large for every other stage has a finite norm.
        skipped = bool(getattr(self._engine.optimizer, "overflow", False))
        if skipped or (norm is not None and not 0.0 <= float(norm) < LARGEST_NORM):
            own.fill_(math.nan)  # clipped by it, or divided by its square, a step would be zero
        torch.distributed.all_reduce(own)
        if self._fresh_schedule is not None:
            self._rate = float(self._optimizer.param_groups[0]["lr"])
        self._stepped(step)
        return float(own)

    def _share(self, batches: list[list[int]]) -> list[list[int]]:
        """This worker's part of some batches; every worker gets equally many."""
        # A ZeRO-3 forward is a collective, so nobody may run one batch more than the others.
        while len(batches) % self._place.world:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            half = len(batches[largest]) // 2
            if half == 0:
                batches.append(batches[-1])
                continue
            batches.append(batches[largest][half:])
            batches[largest] = batches[largest][:half]
        return batches[self._place.rank :: self._place.world]

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row; each worker computes its share."""
        self._engine.eval()
        offsets = [0]
        for row in rows:
            offsets.append(offsets[-1] + len(row.picks))
        whole = torch.zeros(offsets[-1], dtype=torch.float64)
        counted = torch.zeros(offsets[-1], dtype=torch.float64)
        with torch.no_grad():
            for batch in self._share(bucketed(rows, self._batch_tokens)):
                chosen = [rows[index] for index in batch]
                values = self._engine(*padded(chosen, self._device), chosen[0].head)
                places = torch.cat([torch.arange(offsets[i], offsets[i + 1]) for i in batch])
                whole[places] = values.double().cpu()
                counted[places] = 1.0
        both = torch.stack([whole, counted]).to(self._device)
        torch.distributed.all_reduce(both)
        flat = (both[0] / both[1]).tolist()
        return [flat[offsets[i] : offsets[i + 1]] for i in range(len(rows))]

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state at the first pick of every row; each worker computes its share."""
        self._engine.eval()
        width = hidden_size(self._model)
        # The last column counts how often a row was computed.
        whole = torch.zeros((len(rows), width + 1))
        with torch.no_grad():
            for batch in self._share(bucketed(rows, self._batch_tokens)):
                chosen = [first_pick(rows[index]) for index in batch]
                input_ids, positions, _ = padded(chosen, self._device)
                whole[batch, :width] = self._engine(input_ids, positions, None).cpu()
                whole[batch, width] = 1.0
        gathered = whole.to(self._device)
        torch.distributed.all_reduce(gathered)
        return (gathered[:, :width] / gathered[:, width:]).cpu()

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str | None]:
        """What the model writes after each prompt; each worker writes its share."""
        self._engine.eval()
        mine: dict[int, str | None] = {}
        for batch in self._share(prompt_batches(prompts, task, self._batch_tokens)):
            texts = write_batch(
                self._model, self._tokenizer, [prompts[i] for i in batch], task, self._device,
                synced=self._stage == 3,
            )  # fmt: skip
            mine |= dict(zip(batch, texts, strict=True))
        parts: list[dict[int, str | None]] = [{} for _ in range(self._place.world)]
        torch.distributed.all_gather_object(parts, mine)
        whole = {index: text for part in parts for index, text in part.items()}
        return [whole[index] for index in range(len(prompts))]

    def _masters(self) -> list[Tensor]:
        """This rank's fp32 tensors; ZeRO-3 hands them to the optimiser only while it steps."""
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return stepped_tensors(self._optimizer)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within it every worker sees the trainable tensors whole; a collective call."""
        if self._stage < 3:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.trainable.values())):
            yield

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write rank 0's view of the weights and every rank's optimiser shard; a collective."""
        with self.gathered():
            if self._place.rank == 0:
                self._save_weights(folder)
                write_json(
                    folder / "engine.json",
                    {"steps": self._steps, "world": self._place.world, "stage": self._stage},
                )
        if with_optimizer:
            shard = folder / f"optimizer-rank{self._place.rank}.safetensors"
            write_tensors(shard, flat_state(self._optimizer, self._masters()))
            if self._fresh_schedule is not None:
                name = f"schedule-rank{self._place.rank}.json"
                write_json(folder / name, self._schedule())

    def load_optimizer(self, folder: Path) -> None:
        """Go on inside a task: this rank's fp32 masters, moments and schedule.

        Args:
            folder: The checkpoint; its weights were given to the constructor.

        Raises:
            ValueError: If it was written by another number of workers or ZeRO stage.
        """
        facts = read_json(folder / "engine.json")
        if (facts["world"], facts["stage"]) != (self._place.world, self._stage):
            raise ValueError(
                f"The checkpoint inside a task was written by {facts['world']} workers at ZeRO "
                f"stage {facts['stage']}, now there are {self._place.world} at stage "
                f"{self._stage}. Use the same resources, or start another sweep with --new."
            )
        self._steps = int(facts["steps"])
        self._fresh_optimizer()
        load_flat_state(
            self._optimizer,
            self._masters(),
            read_tensors(folder / f"optimizer-rank{self._place.rank}.safetensors"),
        )
        if self._fresh_schedule is not None:
            name = f"schedule-rank{self._place.rank}.json"
            self._set_schedule(read_json(folder / name))


def deepspeed_config(spec: TrainingSpec, world: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a training spec; what the user wrote is passed through."""
    config: dict[str, Any] = {
        "train_batch_size": spec.batch_size,
        "train_micro_batch_size_per_gpu": spec.batch_size // (world * spec.accumulation),
        "gradient_accumulation_steps": spec.accumulation,
        "gradient_clipping": spec.max_grad_norm or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
        **spec.deepspeed,
    }
    config["zero_optimization"] = {"stage": 0, **spec.deepspeed.get("zero_optimization", {})}
    if spec.precision == "bf16":
        config["bf16"] = {"enabled": True}
    return config


class _Reads(dict[str, Any]):
    """A configuration that remembers which of its keys were asked for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.asked: set[Any] = set()

    def get(self, key: Any, default: Any = None, /) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: Any) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(key)
        return super().__contains__(key)

    def keys(self) -> Any:
        return self  # `key in config.keys()` is a question as well

    def __copy__(self) -> _Reads:
        return self


def deepspeed_refuses(spec: TrainingSpec) -> str | None:
    """What DeepSpeed would not take, or would ignore, of a training spec's own section.

    Args:
        spec: How to train.

    Returns:
        A message with every place that DeepSpeed's configuration names; None when all is well.
    """
    with redirect_stdout(io.StringIO()):  # where DeepSpeed logs
        from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
        from deepspeed.runtime.lr_schedules import VALID_LR_SCHEDULES
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

        config = _Reads(deepspeed_config(spec, 1))
        try:
            DeepSpeedConfig(config)
        except ValidationError as error:
            zero = error.title == DeepSpeedZeroConfig.__name__
            section = "training.deepspeed" + (".zero_optimization" if zero else "")
            known = list(DeepSpeedZeroConfig.model_fields) if zero else []
            shown = render_validation_error(error, section, known)
            return shown if zero else f"{shown} ({error.title})"
        except (DeepSpeedConfigError, AssertionError, ValueError, TypeError, KeyError) as error:
            return f"training.deepspeed: DeepSpeed refuses it: {str(error) or repr(error)}"
    return _ignored(spec, config) or _unnamed(spec, list(VALID_LR_SCHEDULES))


def _ignored(spec: TrainingSpec, config: _Reads) -> str | None:
    """The first of a user's sections that DeepSpeed never asked for."""
    ignored = sorted(set(spec.deepspeed) - config.asked)
    if not ignored:
        return None
    near = suggestion(ignored[0], sorted(map(str, config.asked)))
    return (
        f"training.deepspeed.{ignored[0]}: DeepSpeed knows no such section and would ignore "
        f"it.{near}"
    )


def _unnamed(spec: TrainingSpec, schedules: list[str]) -> str | None:
    """A scheduler or optimiser that is asked for without saying which."""
    for section, kinds in (("scheduler", schedules), ("optimizer", [])):
        own = spec.deepspeed.get(section)
        if own is None:
            continue
        kind = own.get("type") if isinstance(own, dict) else None
        if not isinstance(kind, str) or (kinds and kind not in kinds):
            near = suggestion(str(kind), kinds)
            listed = f" Schedulers: {', '.join(kinds)}." if kinds else ""
            return f"training.deepspeed.{section}: `type` names none; got {kind!r}.{near}{listed}"
    return None


class PartedBase:
    """A frozen base of which every worker holds a part (ZeRO stage 3), whole a layer at a time."""

    def __init__(self, base: Any, config: Mapping[str, Any]) -> None:
        """Part a base, if `partitioned` has not done so already; a collective.

        Args:
            base: A causal language model no parameter of which is trained. Adapters may be put
                around its layers afterwards; they stay whole.
            config: What `zero3_config` gave.
        """
        import deepspeed

        world = torch.distributed.get_world_size()
        # Nothing is trained by DeepSpeed here, so it needs no sizes of batches; yet it checks them.
        self._config = {
            **config,
            "train_batch_size": world,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
        }
        self.scored = ScoredModel(base).eval()
        """Every pass must go through it: that is where DeepSpeed begins to count layers anew."""
        self._engine: Any = deepspeed.initialize(
            model=self.scored, config=self._config, dist_init_required=False
        )[0]

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Within it adapters gather the weights that they read, one layer at a time."""
        with partitioned(self._config):
            yield

    def release(self) -> None:
        """Let go of weights that a backward pass has left whole.

        The hooks that do so hang on gradients of a layer's input, which the lowest ones have not.
        """
        self._engine.optimizer.release_backward_leftovers()

    def release_all(self) -> None:
        """Let go of every weight, also after gradients of single tensors, which run no hooks."""
        self._engine.empty_partition_cache()


def zero3_config(spec: TrainingSpec) -> dict[str, Any] | None:
    """What `load_base` needs to part a base among the workers while it is loaded.

    Args:
        spec: How to train; torch.distributed must be up.

    Returns:
        The DeepSpeed configuration of ZeRO stage 3, None of a lower stage.
    """
    config = deepspeed_config(spec, torch.distributed.get_world_size())
    if int(config["zero_optimization"]["stage"]) < 3:
        return None
    import deepspeed

    # Without its own view of torch.distributed DeepSpeed would count one worker.
    deepspeed.init_distributed(torch.distributed.get_backend(), dist_init_required=False)
    return config


def build_communication_op() -> str:
    """Compile DeepSpeed's shared-memory operation for CPU workers, once a machine.

    Returns:
        What was done, in words.
    """
    keep_in_environment()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.comm.torch import build_shm_op

    built: Callable[..., Any] | Any = build_shm_op()
    return "built" if built is not None else "not needed on this accelerator"
