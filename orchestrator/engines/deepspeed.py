"""The DeepSpeed engine: one of n Ray Train workers, ZeRO stage 0 to 3."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curlora.peft_bridge import cast_adapter_buffers
from curlora.retention.protocol import Retention
from orchestrator.data.items import Example
from orchestrator.engines.base import BaseEngine
from orchestrator.engines.checkpoints import (
    ENGINE_FILE,
    WEIGHTS_FILE,
    flat_state,
    load_flat_state,
    optimizer_file,
    read_json,
    read_tensors,
    stepped_tensors,
    write_json,
    write_tensors,
)
from orchestrator.engines.deepspeed_config import deepspeed_config, lean_imports
from orchestrator.engines.linear_heads import LinearHeads
from orchestrator.engines.micro_batches import sharded_batch
from orchestrator.engines.optimizer import adamw, schedule_factor, seed_step, set_rates
from orchestrator.engines.workers import Workers
from orchestrator.spec.sections import TrainingSpec

LARGEST_NORM = math.sqrt(torch.finfo(torch.float32).max)
"""A gradient's norm from here on has no finite square, and neither has AdamW's second moment."""


class DeepSpeedEngine(BaseEngine):
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
        with lean_imports():
            import deepspeed

        workers = Workers.of_group()
        super().__init__(
            model, spec, workers=workers, batch_tokens=batch_tokens, heads=heads,
            tokenizer=tokenizer, retention=retention,
        )  # fmt: skip
        if weights is not None:
            self._load_weights(weights)
        if spec.precision == "bf16":
            cast_adapter_buffers(model, torch.bfloat16)
        config = deepspeed_config(spec, workers.world)
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
        self._forward = self._engine
        self._synced = self._stage == 3
        if self._stage == 3:
            for reader, parameter in self._read_elsewhere():
                deepspeed.zero.register_external_parameter(reader, parameter)
        self._optimizer: torch.optim.Optimizer = self._engine.basic_optimizer
        self._fresh_schedule = self._schedule() if "scheduler" in config else None

    def _read_elsewhere(self) -> Iterator[tuple[nn.Module, nn.Parameter]]:
        """Parameters that a module reads without owning them: ZeRO-3 must register each."""
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

    def load_learnt(self, folder: Path, follows: tuple[str, ...]) -> None:
        """Go on from what another trial has learnt; see `BaseEngine.load_learnt`."""
        super().load_learnt(folder, follows)
        if self._stage < 3:
            return
        import deepspeed

        # Masters are copied into partitioned parameters after a step only: the first would begin
        # from what was there before.
        tensors = read_tensors(folder / WEIGHTS_FILE)
        own = list(self.trainable.values())
        with torch.no_grad(), deepspeed.zero.GatheredParameters(own, modifier_rank=0):
            for name, parameter in self.trainable.items():
                parameter.copy_(tensors[name])

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

    def adapter_values(self) -> dict[str, Tensor]:
        """The adapter's tensors, gathered under ZeRO stage 3; a collective."""
        if self._stage < 3:
            return dict(self.scored.adapter)
        with self.gathered():
            return {name: p.detach().clone() for name, p in self.scored.adapter.items()}

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
        seed_step(self._spec.seed, step, self._workers.rank)
        self._engine.train()
        batch = sharded_batch(examples, replayed, self._workers, self._spec.accumulation)
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
        self._workers.all_reduce([own])
        if self._fresh_schedule is not None:
            self._rate = float(self._optimizer.param_groups[0]["lr"])
        self._stepped(step)
        return float(own)

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
            if self._workers.first:
                self._save_weights(folder)
                write_json(
                    folder / ENGINE_FILE,
                    {"steps": self._steps, "world": self._workers.world, "stage": self._stage},
                )
        if with_optimizer:
            shard = folder / optimizer_file(self._workers.rank)
            write_tensors(shard, flat_state(self._optimizer, self._masters()))
            if self._fresh_schedule is not None:
                name = f"schedule-rank{self._workers.rank}.json"
                write_json(folder / name, self._schedule())

    def load_optimizer(self, folder: Path) -> None:
        """Go on inside a task: this rank's fp32 masters, moments and schedule.

        Args:
            folder: The checkpoint; its weights were given to the constructor.

        Raises:
            ValueError: If it was written by another number of workers or ZeRO stage.
        """
        facts = read_json(folder / ENGINE_FILE)
        if (facts["world"], facts["stage"]) != (self._workers.world, self._stage):
            raise ValueError(
                f"The checkpoint inside a task was written by {facts['world']} workers at ZeRO "
                f"stage {facts['stage']}, now there are {self._workers.world} at stage "
                f"{self._stage}. Use the same resources, or start another sweep with --new."
            )
        self._steps = int(facts["steps"])
        self._fresh_optimizer()
        load_flat_state(
            self._optimizer,
            self._masters(),
            read_tensors(folder / optimizer_file(self._workers.rank)),
        )
        if self._fresh_schedule is not None:
            name = f"schedule-rank{self._workers.rank}.json"
            self._set_schedule(read_json(folder / name))
