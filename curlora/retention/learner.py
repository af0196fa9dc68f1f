"""A model that learns tasks one after the other under a retention, whatever takes the steps.

    learner = Learner(model, RETENTIONS["ewc"].build(), tasks=2)
    for rows in data_sets:
        learner.renew_adapter()
        learner.begin(rows, collate, reach=lambda: sum(learning_rates))
        for step, batch in enumerate(batches):
            loss = loss_of([*batch, *learner.replayed(len(batch), step)]) + learner.penalty()
            ...
            learner.after_step(step + 1)
        learner.end()

`curlora.retention.trainer` makes these calls from within a trainer of transformers or TRL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from curlora.adapters.secura import after_step, merged_tensors
from curlora.curvature.derivatives import observe
from curlora.curvature.layers import adapted_layers
from curlora.curvature.observation import Observation
from curlora.retention.protocol import Retention
from curlora.retention.rows import Collate, RowScorer
from curlora.retention.task_phases import Rows, TaskPhases


class _ModelPhases(TaskPhases[Any]):
    """The phases of a model that this process holds, over the rows of data sets."""

    def __init__(self, model: nn.Module, retention: Retention, seed: int) -> None:
        super().__init__(retention, seed)
        self.model = model
        self.params = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.collate: Collate | None = None
        """Makes a batch of rows; known once a task begins."""

    def adapter_values(self) -> dict[str, Tensor]:
        return dict(self.params)

    def renew_adapter(self, index: int) -> None:
        with torch.no_grad():
            for name, value in self._renewed(self.model, index).items():
                self.params[name].copy_(value)

    def _observations(self, examples: Sequence[Any]) -> Iterator[Observation]:
        assert self.collate is not None
        scorer = RowScorer(self.model, self.collate)
        wanted = self.retention.observes
        for found in observe(self.model, scorer.log_probability, self.params, examples, wanted):
            yield replace(found, scored=scorer.scored)


class Learner:
    """A model, what protects it, and how far its sequence of tasks has come.

    Attributes:
        model: The model that learns.
        retention: What protects earlier tasks.
        params: The trained parameters by name.
        tasks: How many tasks the sequence has.
        finished: How many of them have been learnt.
    """

    def __init__(
        self,
        model: nn.Module,
        retention: Retention,
        *,
        tasks: int,
        seed: int = 0,
        sources: Sequence[Rows[Any]] = (),
    ) -> None:
        """Start before the first task.

        Args:
            model: A causal language model of transformers with the adapter attached; what requires
                gradients now is what is learnt.
            retention: One that has seen nothing.
            tasks: How many tasks will be learnt, at least 1.
            seed: Chooses the rows that are looked at, and fresh adapters.
            sources: Data sets whose curvature is measured before the first task, for a retention
                with the source `texts`.

        Raises:
            ValueError: Nothing of the model is trained.
        """
        self.model = model
        self.retention = retention
        self._phases = _ModelPhases(model, retention, seed)
        self.params = self._phases.params
        self.tasks = tasks
        self.finished = 0
        self._sources = sources
        self._merges = bool(merged_tensors(model))
        self._learnt: list[Rows[Any]] = []
        self._open: Rows[Any] | None = None
        if not self.params:
            raise ValueError(
                "No parameter of the model requires gradients, so there is nothing to learn. "
                "Attach an adapter first (`curlora.attach` or `peft.get_peft_model`)."
            )
        retention.bind(adapted_layers(model, self.params))

    @property
    def replays(self) -> bool:
        """Whether rows of finished tasks join every batch."""
        return type(self.retention).rows is not Retention.rows

    @property
    def merges(self) -> bool:
        """Whether the adapter is merged into the base again and again while it learns."""
        return self._merges

    @property
    def is_learning(self) -> bool:
        """Whether a task has begun and not ended."""
        return self._open is not None

    def check_next(self) -> None:
        """Refuse to begin a task where none can begin.

        Raises:
            ValueError: The one before has not ended, all are learnt, or other parameters are
                trained than at the start.
        """
        if self.is_learning:
            raise ValueError(
                f"Task {self.finished + 1} of {self.tasks} was begun and has not ended: its "
                "training was interrupted, so what it taught is not known. Start again from the "
                "base."
            )
        if self.finished == self.tasks:
            raise ValueError(
                f"All {self.tasks} tasks have been learnt. Give `tasks` the number of all tasks of "
                "the learner."
            )
        trained = {n for n, p in self.model.named_parameters() if p.requires_grad}
        if trained != set(self.params):
            changed = sorted(trained ^ set(self.params))
            raise ValueError(
                f"Other parameters require gradients than when the sequence was made: "
                f"{changed[:3]}. Choose what is trained before."
            )

    def renew_adapter(self) -> None:
        """Freeze the last task's adapter and start a fresh one, where the retention asks for it.

        Comes before the optimiser is made.
        """
        self._phases.renew_adapter(self.finished)

    def begin(self, rows: Rows[Any], collate: Collate, *, reach: Callable[[], float]) -> None:
        """Begin the next task.

        Args:
            rows: Its training examples.
            collate: Makes a batch of rows.
            reach: Gives the sum of the learning rates of the task's steps; called only where a
                strength is to be found.

        Raises:
            ValueError: The task cannot begin, or its rows cannot be read.
        """
        self.check_next()
        if len(rows) == 0:
            raise ValueError("The data set has no rows, so there is nothing to learn.")
        RowScorer(self.model, collate).batch_of(rows[0])
        self._phases.collate = collate
        if self.finished == 0:
            self._phases.begin_sequence(self.tasks, self._sources)
        looks = self.retention.looks_at > 0
        self._phases.observe_beginning(self.finished, rows, reach() if looks else 0.0)
        self._open = rows

    def replayed(self, current: int, step: int) -> list[Any]:
        """Give the rows of earlier tasks to add to a batch.

        Args:
            current: Rows of the batch.
            step: Which step of the task, counted from 0.

        Returns:
            Rows as their data sets give them; none where the retention replays nothing.
        """
        drawn = self.retention.rows(current, self.finished, step)
        return [self._learnt[task][position] for task, position in drawn]

    def penalty(self) -> Tensor:
        """Give what to add to the loss: 0-dim, at least 0, differentiable."""
        return self.retention.penalty(self.params)

    def after_step(self, steps: int) -> None:
        """Note that the optimiser has moved the parameters.

        Args:
            steps: How many steps of the task have been taken.
        """
        if self._merges:
            after_step(self.model, steps)
        self.retention.after_step(self.params)

    def end(self) -> None:
        """End the task: the retention takes in what it taught.

        Raises:
            ValueError: No task has begun.
        """
        if self._open is None:
            raise ValueError("No task has begun. Call `begin` first.")
        self._phases.end_task(self.finished, self._open)
        if self.replays:
            self._learnt.append(self._open)
        self.finished += 1
        self._open = None
