"""One slot of a pack as an engine: its retention, its optimiser, and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import curlora
from curlora.curvature.derivatives import observe
from curlora.curvature.layers import adapted_layers
from curlora.curvature.observation import Observation
from curlora.packing.pack import Moments
from curlora.retention.protocol import Retention
from orchestrator.data.items import Example
from orchestrator.engines.checkpoints import (
    ENGINE_FILE,
    RETENTION_FILE,
    WEIGHTS_FILE,
    carried_along,
    optimizer_file,
    read_json,
    read_tensors,
    save_weights,
    write_json,
    write_tensors,
)
from orchestrator.engines.optimizer import schedule_factor
from orchestrator.engines.retention_phases import RetentionPhases, log_probability
from orchestrator.engines.row_batches import scored_example
from orchestrator.engines.scored_model import ScoredModel
from orchestrator.executors.pool.failures import Failure, Result, SharedFailureError
from orchestrator.executors.pool.shared_passes import SharedPasses
from orchestrator.spec.sections import TrainingSpec


class SlotEngine(RetentionPhases):
    """What concerns one slot alone; the passes that slots share are elsewhere."""

    def __init__(
        self, passes: SharedPasses, number: int, spec: TrainingSpec, retention: Retention
    ) -> None:
        """Take a slot that a trial has joined.

        Args:
            passes: The base and its pack.
            number: Which slot.
            spec: How the trial is trained.
            retention: What protects its earlier tasks.
        """
        super().__init__(retention, spec, passes.workers, passes.device)
        self._passes = passes
        self._pack = passes.pack
        self._number = number
        self._solo: Any = None
        """The adapter as a model of its own, within `gathered`."""

    def bind(self) -> None:
        """Let the retention know the adapter's layers; before anything else, and a collective."""
        if type(self.retention).bind is not Retention.bind:  # most kinds do not ask
            solo = self._passes.solo(self._number)
            self.retention.bind(adapted_layers(solo, curlora.trainable_parameters(solo)))

    def adapter_values(self) -> dict[str, Tensor]:
        """Copies of the slot's trained tensors, by the names of a model of its own."""
        return self._pack.state(self._number)

    # ------------------------------------------------------------------ a step

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0 within the task."""
        return self._spec.learning_rate * schedule_factor(self._spec, step, self._steps)

    def add_penalty(self) -> None:
        """Add the gradient of what the retention adds to the loss."""
        if self.retention.kind == "none":
            return
        state = {name: tensor.requires_grad_() for name, tensor in self.adapter_values().items()}
        penalty = self.retention.penalty(state)
        if penalty.requires_grad:
            found = torch.autograd.grad(
                penalty, list(state.values()), allow_unused=True, materialize_grads=True
            )
            self._pack.add_gradients(self._number, dict(zip(state, found, strict=True)))

    def after_step(self) -> None:
        """Let the retention see what a step has made of the adapter."""
        after_step = self.retention.after_step
        if getattr(after_step, "__func__", None) is not Retention.after_step:  # most do nothing
            after_step(self.adapter_values())

    # ------------------------------------------------------------------ for the retention

    def _fresh(self, index: int) -> None:
        del index  # no retention that renews the adapter can be packed
        self._pack.begin(self._number)

    def _derivatives(self, examples: Sequence[Example]) -> Iterator[Observation]:
        if self._passes.sharded is not None and self.retention.observes == {"gradients"}:
            return self._gradients(examples)
        return self._derivatives_of_solo(examples)

    def _derivatives_of_solo(self, examples: Sequence[Example]) -> Iterator[Observation]:
        """Whatever derivatives, of a model of the slot's own."""
        solo = self._passes.solo(self._number)
        forward = partial(log_probability, ScoredModel(solo).eval(), device=self._device)
        params = curlora.trainable_parameters(solo)
        what = self.retention.observes
        # What it refuses it refuses on every worker; in a pass of a sharded base nothing may be.
        list(observe(solo, forward, params, [], what))
        found = observe(solo, forward, params, examples, what)
        for _ in examples:
            observation = self._agreed(partial(next, found))
            if self._passes.sharded is not None:
                self._passes.sharded.release_all()
            yield observation

    def _gradients(self, examples: Sequence[Example]) -> Iterator[Observation]:
        """Gradients only, of the pack itself: a DoRA of its own reads weights that are sharded."""
        for example in examples:
            row = (self._number, scored_example(example))
            # Minus the loss, and not divided by the number of tokens.
            self._agreed(partial(self._passes.learn, [row], {self._number: -1}, counts=True))
            found = self._pack.gradients(self._number)
            self._pack.zero_gradients(self._number)
            yield Observation(gradients=found)

    def _agreed(self, work: Callable[[], Result]) -> Result:
        """Do a shard of a pass; what fails on one worker is raised on all."""
        found = self._passes.in_step(work)
        if isinstance(found, Failure):
            raise SharedFailureError(found)
        return found

    # ------------------------------------------------------------------ on disk

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write a checkpoint as `PlainEngine` does; the first worker writes, all know the same."""
        if not self._workers.first:
            return
        values = self.adapter_values()
        save_weights(folder, values, self.retention.state_dict())
        if with_optimizer:
            tensors = _optimizer_tensors(self._pack.moments(self._number), values)
            write_tensors(folder / optimizer_file(0), tensors)
        write_json(folder / ENGINE_FILE, {"steps": self._steps, "world": 1})

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within it the adapter is a model of its own; a collective."""
        self._solo = self._passes.solo(self._number)
        try:
            yield
        finally:
            self._solo = None

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as `curlora.load_adapter` reads it; within `gathered`."""
        curlora.save_adapter(self._solo, folder)

    def load_learnt(self, folder: Path, follows: tuple[str, ...]) -> None:
        """Go on from what another trial has learnt, as `BaseEngine.load_learnt`."""
        carried = carried_along(folder, follows)
        self._pack.load_state(self._number, read_tensors(folder / WEIGHTS_FILE))
        self.retention.follow({n: t.to(self._device) for n, t in carried.items()})

    def load(self, folder: Path, *, inside: bool) -> None:
        """Go on from `save`.

        Args:
            folder: The checkpoint.
            inside: Whether it was written inside a task.

        Raises:
            ValueError: If its tensors are not those of the slot.
        """
        self._pack.load_state(self._number, read_tensors(folder / WEIGHTS_FILE))
        if (folder / RETENTION_FILE).is_file():
            carried = read_tensors(folder / RETENTION_FILE)
            self.retention.load_state_dict({n: t.to(self._device) for n, t in carried.items()})
        if inside:
            # Its beginning is not asked for again.
            self._steps = int(read_json(folder / ENGINE_FILE)["steps"])
            names = list(self.adapter_values())
            tensors = read_tensors(folder / optimizer_file(0))
            self._pack.load_moments(self._number, _moments_of(tensors, names))


def _optimizer_tensors(moments: Moments, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A slot's optimiser state as `engines.checkpoints.flat_state` lays out torch's own."""
    tensors: dict[str, Tensor] = {}
    for index, (name, value) in enumerate(values.items()):
        tensors[f"{index}.master"] = value
        tensors[f"{index}.step"] = torch.tensor(float(moments.steps))
        tensors[f"{index}.exp_avg"] = moments.first[name]
        tensors[f"{index}.exp_avg_sq"] = moments.second[name]
    return tensors


def _moments_of(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Moments:
    """The reverse of `_optimizer_tensors`."""
    return Moments(
        int(tensors["0.step"]),
        {name: tensors[f"{index}.exp_avg"] for index, name in enumerate(names)},
        {name: tensors[f"{index}.exp_avg_sq"] for index, name in enumerate(names)},
    )
