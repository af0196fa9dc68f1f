"""A `transformers.Trainer` whose steps and tasks a retention takes part in."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from curlora.retention.hidden_states import recorded_states, swapped
from curlora.retention.learner import Learner
from curlora.retention.rows import Collate
from curlora.retention.trainer_checks import check_trainer

if TYPE_CHECKING:
    from transformers import Trainer as Base
else:
    Base = object

REPLAYED = "replayed_rows"
"""The entry of a batch that says which of its rows are replayed, (rows,); no model sees it."""


class RetentionMixin(Base):
    """Comes before `transformers.Trainer`, or a subclass such as TRL's `SFTTrainer`.

    A call of `train` learns one task. The loss that is logged is the task's; the gradient is that
    of the loss and of what the retention adds to it, which is logged as `retention_penalty`.
    """

    def __init__(self, *args: Any, learner: Learner, **kwargs: Any) -> None:
        """Make the trainer.

        Args:
            args: As the trainer takes them.
            learner: The model and its retention.
            kwargs: As the trainer takes them.

        Raises:
            ValueError: What the trainer is asked for does not go with the retention.
        """
        super().__init__(*args, **kwargs)
        self._learner = learner
        self._has_trained = False
        self._own_optimizer = self.optimizer is None and self.lr_scheduler is None
        self._penalties: list[Tensor] = []
        check_trainer(self, learner)
        self.add_callback(_Moments(self))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Learn the next task on `train_dataset`.

        Args:
            args: As the trainer takes them.
            kwargs: As the trainer takes them.

        Returns:
            What the trainer gives.

        Raises:
            ValueError: The trainer or the task cannot begin.
        """
        if args or any(kwargs.get(name) for name in ("resume_from_checkpoint", "trial")):
            raise ValueError(
                "`train` under a retention goes from the beginning of a task to its end: a "
                "checkpoint of the trainer holds nothing of the retention. Call it without "
                "`resume_from_checkpoint` and `trial`."
            )
        self._learner.check_next()
        check_trainer(self, self._learner)
        if self._has_trained:
            self._forget_optimizer()
        self._has_trained = True
        self._learner.renew_adapter()
        found = super().train(**kwargs)
        self._learner.end()
        return found

    def _forget_optimizer(self) -> None:
        """Let the next task have an optimiser of its own."""
        if not self._own_optimizer:
            raise ValueError(
                "Each task has a fresh optimiser, and this trainer was given its own. Make a new "
                "trainer with new `optimizers` for the next task."
            )
        self.optimizer = self.lr_scheduler = None

    def get_train_dataloader(self) -> Any:
        """Give the batches, with replayed rows where the retention adds some."""
        if not self._learner.replays:
            return super().get_train_dataloader()
        plain = self.data_collator
        self.data_collator = _Replaying(self._row_collator(), self._learner)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Give the trainer's loss, with the gradient of what the retention adds.

        Args:
            model: As the trainer gives it.
            inputs: A batch.
            return_outputs: Whether the model's outputs are wanted, too.
            num_items_in_batch: Scored tokens of the whole step, where they are counted.

        Returns:
            The loss, or the loss and the outputs.

        Raises:
            ValueError: Hidden states are to be compared, and the padding is not known.
        """
        inputs = dict(inputs)
        replayed = inputs.pop(REPLAYED, None)
        own = functools.partial(
            super().compute_loss, model, inputs, return_outputs, num_items_in_batch
        )
        learner = self._learner
        if not (learner.model.training and learner.is_learning):
            return own()
        extra = learner.penalty()
        shadow = learner.retention.shadow
        if shadow is None or replayed is None or not bool(replayed.any()):
            found: Any = own()
        else:
            places = _places(inputs, replayed)
            slow = self._states_under(shadow, model, inputs, places)
            with recorded_states(learner.model) as passes:
                found = own()
            fast = [layer[places] for layer in passes[0]]
            extra = extra + learner.retention.hidden_loss(fast, slow)
        self._penalties.append(extra.detach())
        loss = found[0] if return_outputs else found
        if self._loss_is_of_the_step(num_items_in_batch):
            extra = extra / self.current_gradient_accumulation_steps
        # Of value 0: the loss that is logged stays the task's.
        loss = loss + (extra - extra.detach()).to(loss.dtype)
        return (loss, found[1]) if return_outputs else loss

    def _loss_is_of_the_step(self, num_items: Any) -> bool:
        """Whether the loss of a micro-batch is already its part of the step's."""
        said = getattr(self, "loss_is_scaled_for_ga", None)
        return self.model_accepts_loss_kwargs and num_items is not None if said is None else said

    def _states_under(
        self, values: Mapping[str, Tensor], model: Any, inputs: Mapping[str, Any], places: Tensor
    ) -> list[Tensor]:
        """The hidden states at some tokens under other values of the parameters."""
        unlabelled = {name: value for name, value in inputs.items() if name != "labels"}
        with (
            swapped(self._learner.params, values),
            torch.no_grad(),
            recorded_states(self._learner.model) as passes,
        ):
            model(**unlabelled, use_cache=False)
        return [layer[places] for layer in passes[0]]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the mean penalty since the last time.

        Args:
            logs: What is logged.
            args: As the trainer takes them.
            kwargs: As the trainer takes them.
        """
        if "loss" in logs and self._penalties:
            logs = {**logs, "retention_penalty": float(torch.stack(self._penalties).mean())}
            self._penalties.clear()
        super().log(logs, *args, **kwargs)

    def _row_collator(self) -> Collate:
        """Collate rows of any task, without the columns that the model does not take."""
        return self._get_collator_with_removed_columns(self.data_collator, description="training")

    def _begin(self, scheduler: Any, steps: int) -> None:
        self._penalties.clear()
        rows: Any = self.train_dataset
        self._learner.begin(rows, self._row_collator(), reach=lambda: _reach(scheduler, steps))


class _Moments(TrainerCallback):
    """Tells the retention of a task's beginning and of every step."""

    def __init__(self, trainer: RetentionMixin) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._trainer._begin(kwargs["lr_scheduler"], state.max_steps)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._trainer._learner.after_step(state.global_step + 1)


class _Replaying:
    """A collator that adds replayed rows to every batch."""

    def __init__(self, collate: Collate, learner: Learner) -> None:
        self._collate = collate
        self._learner = learner
        self._step = 0

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        again = self._learner.replayed(len(rows), self._step)
        self._step += 1
        marks = [False] * len(rows) + [True] * len(again)
        return {**self._collate([*rows, *again]), REPLAYED: torch.tensor(marks)}


def _places(inputs: Mapping[str, Any], replayed: Tensor) -> Tensor:
    """Which tokens of a batch are replayed ones that predict another: bool (rows, tokens)."""
    mask = inputs.get("attention_mask")
    if mask is None:
        raise ValueError(
            "Hidden states of replayed rows are compared without padding, and the collator gives "
            "no `attention_mask` to know it by. Use one that does."
        )
    used = mask.bool()
    predicts = torch.zeros_like(used)
    predicts[:, :-1] = used[:, :-1] & used[:, 1:]
    return predicts & replayed.to(used.device)[:, None]


def _reach(scheduler: Any, steps: int) -> float:
    """The sum of a task's learning rates, the largest of any group of parameters."""
    if not isinstance(scheduler, LambdaLR):
        raise TypeError(
            "`strength: auto` needs the learning rates of all steps of a task in advance, and "
            f"{type(scheduler).__name__} does not tell them. Choose another `lr_scheduler_type`, "
            "or give the retention's `strength` as a number."
        )
    return max(
        float(rate) * sum(factor(step) for step in range(steps))
        for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    )
