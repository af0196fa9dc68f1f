"""What every retention does and carries: the base class, and what it is told of an example.

A retention protects what a model knows while it learns a task. It sees `params`, the adapter's
trainable tensors by the names of `named_parameters()`, and never a model. Its base class is the
retention `none`: every moment of a sequence has a harmless default, and a kind overrides what it
needs.

    retention.bind(adapted_layers(model, params))          # once an adapter is attached
    retention.begin_sequence(params, tasks=3)              # once, before the first task
    for task in range(3):
        retention.begin_task(params, task, observed=look, reach=sum(learning_rates))
        for step in range(steps):
            rows = retention.rows(len(batch), task, step)  # replayed rows to add
            loss = task_loss + retention.penalty(params)
            retention.after_step(params)
        retention.end_task(params, task, observed, total, examples=len(training_set))

Everything carried, the settings included, is a tensor of `state_dict()`. Its shapes do not change
from the first task on, so that the states of several trials stack along a leading axis whatever
task each has reached, and `torch.vmap` of `penalty_of` gives all their penalties at once.

A tensor of the state is replaced, never changed in place: a dictionary that `state_dict` gave stays
what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from curlora.curvature.observation import AdaptedLayer, Derivative, Observation, Params

Total = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Gives the sum over all workers of each tensor, by the same names. Every worker calls it."""


def alone(statistics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the sum over one worker: the `total` of a run without others.

    Args:
        statistics: Additive statistics.

    Returns:
        The same.
    """
    return statistics


class Retention:
    """Protects nothing; the base of what does.

    Attributes:
        kind: Its name in `RETENTIONS`.
        observes: What derivatives `begin_sequence` and `end_task` read of an example.
        max_examples: How many examples they read, over all workers, of each set.
        renews_adapter: Each task begins with a fresh adapter; those of finished tasks are frozen
            and their updates summed (`earlier`).
        source: Where observations come from: `tasks`, the training examples at the end of each
            task; `texts`, named sets before the first task (and the tasks too when a kind is
            `online`); `none`.
    """

    kind: ClassVar[str] = "none"
    observes: frozenset[Derivative] = frozenset()
    max_examples: int = 0
    renews_adapter: bool = False
    source: Literal["none", "tasks", "texts"] = "none"

    def __init__(self, settings: Mapping[str, int | float] | None = None) -> None:
        """Start with nothing seen.

        Args:
            settings: Numbers that the state carries as 0-dim tensors: float64, or int64 for whole
                numbers.
        """
        self._state: dict[str, Tensor] = {
            name: torch.tensor(
                value, dtype=torch.int64 if isinstance(value, int) else torch.float64
            )
            for name, value in (settings or {}).items()
        }
        self._settings = frozenset(self._state)

    # ------------------------------------------------------------------ the moments of a sequence

    def bind(self, layers: Mapping[str, AdaptedLayer]) -> None:
        """Learn how the parameters make up the layers' updates.

        Called once after the adapter is attached, before `begin_sequence` or `load_state_dict`.
        Most kinds do not ask.

        Args:
            layers: As `curlora.curvature.layers.adapted_layers` gives them.
        """

    def begin_sequence(
        self,
        params: Params,
        *,
        tasks: int,
        observed: Sequence[Iterable[Observation]] = (),
        total: Total = alone,  # noqa: ARG002
    ) -> None:
        """Make room for a sequence, and take in the source sets where a kind has them.

        Called once before the first task, not when a run is resumed.

        Args:
            params: The adapter as it starts.
            tasks: How many tasks the sequence has, at least 1.
            observed: One iterable for each named source set: this worker's share of its examples.
                Empty unless `source` is `texts`.
            total: Sums statistics over workers.

        Raises:
            ValueError: `tasks` is below 1, or there are source sets that this kind does not read.
        """
        if tasks < 1:
            raise ValueError(f"`tasks` must be at least 1, got {tasks}.")
        if observed and self.source != "texts":
            raise ValueError(
                f"Retention {self.kind!r} reads no source sets (its source is {self.source!r}), "
                f"but {len(observed)} were given. Leave `observed` empty."
            )
        self._make_room(params, tasks)

    @property
    def looks_at(self) -> int:
        """How many of the task's training examples `begin_task` reads, over all workers."""
        return 0

    def begin_task(
        self,
        params: Params,
        task: int,
        *,
        observed: Iterable[Observation] = (),
        total: Total = alone,
        reach: float = 0.0,
    ) -> None:
        """Note that a task begins. Not called when a run is resumed within it.

        Args:
            params: The adapter as the task finds it: fresh where `renews_adapter`.
            task: Which, counted from 0.
            observed: This worker's share of `looks_at` of the task's training examples, computed
                as it is read.
            total: Sums statistics over workers.
            reach: The sum of the learning rates of the task's steps: about the furthest that AdamW
                can move a parameter.
        """

    @property
    def strength(self) -> float | None:
        """What multiplies the penalty now, given or found; None for kinds without one."""
        found = self._state.get("strength")
        return None if found is None else float(found)

    def rows(self, current: int, task: int, step: int) -> list[tuple[int, int]]:  # noqa: ARG002
        """Give the examples of earlier tasks to add to a batch.

        The same numbers give the same rows, in a resumed run and on every worker alike.

        Args:
            current: Rows of the batch over all workers, before anything is added.
            task: Which task is being learnt, counted from 0.
            step: Which step of it, counted from 0.

        Returns:
            (task, position in that task's training examples) of each, none twice.
        """
        return []

    def penalty(self, params: Params) -> Tensor:
        """Give what to add to the loss.

        Args:
            params: The adapter.

        Returns:
            0-dim, at least 0, on the device of `params`, differentiable in them; float32 or better.

        Raises:
            ValueError: The parameters are not those that `begin_sequence` saw.
        """
        try:
            return self.penalty_of(self._state_beside(params), params)
        except KeyError as error:
            raise ValueError(
                f"Retention {self.kind!r} has no {error} in its state. Call `begin_sequence` (or "
                "`load_state_dict`) with the parameters that are learnt, and give all of them to "
                "`penalty`."
            ) from error

    @staticmethod
    def penalty_of(state: Mapping[str, Tensor], params: Params) -> Tensor:  # noqa: ARG004
        """Compute the penalty from a state: what `penalty` does, as a pure function.

        `torch.vmap` over a leading axis of both arguments gives the penalty of each slot.

        Args:
            state: As `state_dict` gives it, on the device of `params`.
            params: The adapter.

        Returns:
            0-dim, at least 0.
        """
        return no_penalty(params)

    @property
    def shadow(self) -> dict[str, Tensor] | None:
        """The slow parameters, in float32 or better, where a kind keeps them (I-LoRA)."""
        return None

    def hidden_loss(self, fast: Sequence[Tensor], slow: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """Compare what two adapters make of replayed rows; only asked when there is a `shadow`.

        Args:
            fast: Hidden states (tokens, hidden) of each layer under the parameters being learnt,
                without padding.
            slow: The same under `shadow`.

        Returns:
            0-dim, at least 0, to add to the loss.

        Raises:
            ValueError: This kind compares no hidden states.
        """
        raise ValueError(f"Retention {self.kind!r} has no slow adapter to compare with.")

    def after_step(self, params: Params) -> None:
        """Note that the optimiser has moved the parameters.

        Args:
            params: The adapter after the step.
        """

    @property
    def earlier(self) -> list[dict[str, Tensor]]:
        """The frozen adapters of finished tasks, in order, where `renews_adapter`.

        All have the same names and shapes. From `end_task` on, the last of them is the adapter that
        is still attached: sum those before it, until a fresh one has taken its place.
        """
        return []

    def end_task(
        self,
        params: Params,
        task: int,
        observed: Iterable[Observation],
        total: Total,
        examples: int,
    ) -> None:
        """Take in what a finished task has taught.

        Every worker calls it and ends with the same state.

        Args:
            params: The adapter as the task leaves it.
            task: Which, counted from 0.
            observed: This worker's share of at most `max_examples` training examples, computed as
                it is read; left unread by kinds that do not ask.
            total: Sums statistics over workers; `alone` when there is one.
            examples: How many training examples the task has over all workers.
        """

    def follow(self, carried: Mapping[str, Tensor]) -> None:
        """Take over what follows the parameters step by step from a run that learnt the same.

        Called at the end of a task that is not learnt again, before `end_task`.

        Args:
            carried: Those tensors of its state; best on the device of the parameters.
        """
        self._state = self._state | {n: tensor.detach().clone() for n, tensor in carried.items()}

    # ------------------------------------------------------------------ what is carried

    def state_dict(self) -> dict[str, Tensor]:
        """Give everything that is carried, the settings included.

        Returns:
            Contiguous tensors that share no memory with one another, fit for safetensors.
        """
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave; what follows is bit-identical, also within a task.

        Args:
            state: The tensors, which are copied; best on the device of the parameters.

        Raises:
            ValueError: The state is of another kind, or lacks a setting.
        """
        missing = sorted(self._settings - set(state))
        unknown = sorted(name for name in state if not self._owns(name))
        if missing or unknown:
            raise ValueError(
                f"This is no state of retention {self.kind!r}: it lacks {missing[:3]} and holds "
                f"{unknown[:3]}, which that kind does not carry. Build the retention with the kind "
                "and settings it was saved with."
            )
        self._state = {name: tensor.detach().clone() for name, tensor in state.items()}

    def carry_on(self, state: Mapping[str, Tensor], *, tasks: int) -> None:
        """Go on after the end of another sequence, with the settings that this one was built with.

        Args:
            state: As `state_dict` gave it after that sequence's last task.
            tasks: How many tasks the longer sequence has, those of the first among them.

        Raises:
            ValueError: The state is of another kind, or lacks a setting.
        """
        settings = {name: self._state[name] for name in self._settings}
        self.load_state_dict(state)
        self._state |= settings
        self._make_more_room(tasks)

    def state_bytes(self) -> int:
        """Give the size of what is carried.

        Returns:
            Bytes over all tensors of `state_dict`.
        """
        return sum(tensor.numel() * tensor.element_size() for tensor in self._state.values())

    # ------------------------------------------------------------------ for the kinds

    _prefixes: tuple[str, ...] = ()
    """How the names of tensors begin that the state gets in `begin_sequence` or `bind`."""

    def _make_room(self, params: Params, tasks: int) -> None:
        """Give the state every tensor it will ever have."""

    def _make_more_room(self, tasks: int) -> None:
        """Let tensors that have an entry for each task have as many as a longer sequence."""

    def _owns(self, name: str) -> bool:
        return name in self._settings or name.startswith(self._prefixes)

    def _state_beside(self, params: Params) -> dict[str, Tensor]:
        """Give the state on the device of the parameters, and keep it there."""
        device = next((p.device for p in params.values()), None)
        if device is not None and any(t.device != device for t in self._state.values()):
            self._state = {name: tensor.to(device) for name, tensor in self._state.items()}
        return self._state

    def _under(self, prefix: str) -> dict[str, Tensor]:
        """Give the tensors of the state whose names begin so, by the rest of their names."""
        return {k.removeprefix(prefix): t for k, t in self._state.items() if k.startswith(prefix)}


def no_penalty(params: Params) -> Tensor:
    """Give the penalty of what has none.

    Args:
        params: The adapter.

    Returns:
        A 0-dim zero on the device of `params`, in float32 or better.
    """
    for parameter in params.values():
        return parameter.new_zeros((), dtype=torch.promote_types(parameter.dtype, torch.float32))
    return torch.zeros(())
