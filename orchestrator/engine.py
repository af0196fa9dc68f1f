"""Who computes: a base model with an adapter, a plain engine, and a DeepSpeed engine.

Both engines share the model wrapper, the loss and the checkpoint format, and give the same losses:
an optimiser step is the mean over the *scored tokens* of the whole batch, however many workers and
micro-batches it is spread over.

A checkpoint is a folder of safetensors and JSON: `weights.safetensors` (the trainable tensors),
`optimizer-rank<r>.safetensors` (each rank's shard of fp32 masters and moments) and `engine.json`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.batches import Scored
from orchestrator.checkpoints import (
    flat_state,
    load_flat_state,
    load_weights,
    read_json,
    read_tensors,
    stepped_tensors,
    write_json,
    write_tensors,
)
from orchestrator.encoding import Example, Tokens
from orchestrator.experiment import TrainingSpec, default_batch_tokens
from orchestrator.optimisation import adamw, schedule_factor, seed_step, set_rates
from orchestrator.scored_model import (
    HEADS_FILE,
    LinearHeads,
    ScoredModel,
    bucketed,
    first_pick,
    hidden_size,
    padded,
    scored_example,
    trainable_parameters,
)
from orchestrator.tasks import GenerationTask
from orchestrator.writing import prompt_batches, write_batch

LARGEST_NORM = math.sqrt(torch.finfo(torch.float32).max)
"""A gradient's norm from here on has no finite square, and neither has AdamW's second moment."""


@dataclass
class _Place:
    """Which worker this is."""

    rank: int = 0
    world: int = 1


def _shards(
    examples: Sequence[Example], place: _Place, accumulation: int
) -> tuple[list[tuple[list[Scored], bool]], int]:
    """This worker's micro-batches (rows, whether they count) and the batch's scored tokens."""
    # Examples are dealt out by length so that workers have equal work. A worker without an example
    # computes one all the same, with weight 0: the others wait for it in the collectives.
    ordered = sorted(examples, key=lambda e: -len(e.tokens))
    rows = [scored_example(example) for example in ordered]
    shares = place.world * accumulation
    mine: list[tuple[list[Scored], bool]] = []
    for micro in range(accumulation):
        own = rows[micro * place.world + place.rank :: shares]
        mine.append((own or rows[-1:], bool(own)))
    return mine, sum(len(row.picks) for row in rows)


class PlainEngine:
    """One process, one device, torch's own AdamW."""

    def __init__(
        self,
        model: Any,
        spec: TrainingSpec,
        *,
        batch_tokens: int | None = None,
        heads: LinearHeads | None = None,
        tokenizer: Any = None,
    ) -> None:
        """Wrap a model for training.

        Args:
            model: A `peft.PeftModel`, or a bare base for evaluation only.
            spec: How to train.
            batch_tokens: Padded tokens per evaluation batch; None: what suits the device.
            heads: Linear heads of tasks that have one.
            tokenizer: Needed by `write` only.
        """
        self._device = next(model.parameters()).device
        self.scored = ScoredModel(model, heads and heads.to(self._device))
        self._spec = spec
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens or default_batch_tokens(
            on_gpu=self._device.type == "cuda"
        )
        self.trainable = trainable_parameters(self.scored)
        self._optimizer: torch.optim.AdamW | None = None
        self._steps = 1
        self._rate = 0.0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return self._rate

    def begin_task(self, steps: int) -> None:
        """Start a task with fresh optimiser state."""
        self._steps = steps
        self._optimizer = adamw(self.trainable, self._spec)

    def train_step(self, examples: Sequence[Example], step: int) -> float:
        """Take one optimiser step; see `Engine`."""
        if self._optimizer is None:
            raise RuntimeError("`begin_task` must come before `train_step`.")
        seed_step(self._spec.seed, step, 0)
        self.scored.train()
        micros, total = _shards(examples, _Place(), self._spec.accumulation)
        loss = 0.0
        for rows, counts in micros:
            values = self.scored(*padded(rows, self._device), rows[0].head)
            part = -values.sum() / total * float(counts)
            part.backward()
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

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str]:
        """What the model writes after each prompt; see `Engine`."""
        self.scored.eval()
        result = [""] * len(prompts)
        for batch in prompt_batches(prompts, task, self._batch_tokens):
            texts = write_batch(
                self.scored.model, self._tokenizer, [prompts[i] for i in batch], task, self._device
            )
            for index, text in zip(batch, texts, strict=True):
                result[index] = text
        return result

    def save_heads(self, folder: Path) -> None:
        """Write the heads, if there are any, beside an adapter's files."""
        if self.scored.heads is not None:
            write_tensors(folder / HEADS_FILE, self.scored.heads.named_tensors())

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write weights and, inside a task, optimiser state."""
        tensors = {name: parameter.detach() for name, parameter in self.trainable.items()}
        write_tensors(folder / "weights.safetensors", tensors)
        if with_optimizer and self._optimizer is not None:
            state = flat_state(self._optimizer, stepped_tensors(self._optimizer))
            write_tensors(folder / "optimizer-rank0.safetensors", state)
        write_json(folder / "engine.json", {"steps": self._steps, "world": 1})

    def load(self, folder: Path) -> None:
        """Go on from `save`: weights, and optimiser state when it was saved inside a task."""
        load_weights(self.trainable, folder)
        shard = folder / "optimizer-rank0.safetensors"
        if shard.is_file():
            self.begin_task(int(read_json(folder / "engine.json")["steps"]))
            assert self._optimizer is not None
            masters = stepped_tensors(self._optimizer)
            load_flat_state(self._optimizer, masters, read_tensors(shard))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Nothing is partitioned here."""
        yield


class DeepSpeedEngine:
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
    ) -> None:
        """Initialise DeepSpeed around a model; a collective call, torch.distributed must be up.

        Args:
            model: A `peft.PeftModel` with its full weights on every worker.
            spec: How to train; `deepspeed` is passed through.
            batch_tokens: Padded tokens per evaluation batch and worker; None: see
                `default_batch_tokens`.
            weights: A checkpoint folder whose weights replace the adapter's and heads' fresh ones.
            heads: Linear heads of tasks that have one.
            tokenizer: Needed by `write` only.
        """
        import deepspeed

        self._spec = spec
        self._tokenizer = tokenizer
        self._device = next(model.parameters()).device
        self._batch_tokens = batch_tokens or default_batch_tokens(
            on_gpu=self._device.type == "cuda"
        )
        self._model = model
        self.scored = ScoredModel(model, heads and heads.to(self._device))
        self.trainable = trainable_parameters(self.scored)
        if weights is not None:
            load_weights(self.trainable, weights)
        self._place = _Place(torch.distributed.get_rank(), torch.distributed.get_world_size())
        config = deepspeed_config(spec, self._place.world)
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
        self._optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        self._fresh_schedule = self._schedule() if "scheduler" in config else None
        self._steps = 1
        self._rate = 0.0

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        return self._rate

    def begin_task(self, steps: int) -> None:
        """Start a task with fresh optimiser state and schedule."""
        self._steps = steps
        for state in self._optimizer.state.values():
            for key, value in state.items():
                state[key] = value.zero_() if isinstance(value, Tensor) else type(value)(0)
        if self._fresh_schedule is not None:
            self._set_schedule(self._fresh_schedule)

    def _schedule(self) -> dict[str, Any]:
        """DeepSpeed's own schedule: its state, and the rates that it set last."""
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        return {"state": dict(self._scheduler.state_dict()), "rates": rates}

    def _set_schedule(self, schedule: Mapping[str, Any]) -> None:
        self._scheduler.load_state_dict(dict(schedule["state"]))
        for group, rate in zip(self._optimizer.param_groups, schedule["rates"], strict=True):
            group["lr"] = rate

    def train_step(self, examples: Sequence[Example], step: int) -> float:
        """Take one optimiser step together with the other workers; see `Engine`."""
        seed_step(self._spec.seed, step, self._place.rank)
        self._engine.train()
        micros, total = _shards(examples, self._place, self._spec.accumulation)
        # DeepSpeed averages over workers and micro-batches; our loss is a share of the whole batch.
        shares = self._place.world * self._spec.accumulation
        factor = schedule_factor(self._spec, step, self._steps)
        self._rate = self._spec.learning_rate * factor
        if self._fresh_schedule is None:
            set_rates(self._optimizer, self._spec, factor)
        own = torch.zeros((), device=self._device)
        norm: Any = None
        for rows, counts in micros:
            values = self._engine(*padded(rows, self._device), rows[0].head)
            part = -values.sum() / total * float(counts)
            self._engine.backward(part * shares)
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

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str]:
        """What the model writes after each prompt; each worker writes its share."""
        self._engine.eval()
        mine: dict[int, str] = {}
        for batch in self._share(prompt_batches(prompts, task, self._batch_tokens)):
            texts = write_batch(
                self._model, self._tokenizer, [prompts[i] for i in batch], task, self._device,
                synced=self._stage == 3,
            )  # fmt: skip
            mine |= dict(zip(batch, texts, strict=True))
        parts: list[dict[int, str]] = [{} for _ in range(self._place.world)]
        torch.distributed.all_gather_object(parts, mine)
        whole = {index: text for part in parts for index, text in part.items()}
        return [whole[index] for index in range(len(prompts))]

    def save_heads(self, folder: Path) -> None:
        """Write the heads, if any, beside an adapter's files; within `gathered`, on rank 0."""
        if self.scored.heads is not None:
            write_tensors(folder / HEADS_FILE, self.scored.heads.named_tensors())

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
                tensors = {name: p.detach() for name, p in self.trainable.items()}
                write_tensors(folder / "weights.safetensors", tensors)
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
        self.begin_task(int(facts["steps"]))
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


def build_communication_op() -> str:
    """Compile DeepSpeed's shared-memory operation for CPU workers, once a machine.

    Returns:
        What was done, in words.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.comm.torch import build_shm_op

    built: Callable[..., Any] | Any = build_shm_op()
    return "built" if built is not None else "not needed on this accelerator"
