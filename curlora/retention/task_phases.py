"""The phases of a sequence of tasks as a retention sees them, and the examples that it looks at."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor, nn

from curlora.adapters.renewal import freeze_earlier, fresh_values
from curlora.curvature.observation import Observation
from curlora.retention.protocol import Retention

Row = TypeVar("Row")
Row_co = TypeVar("Row_co", covariant=True)


class Rows(Protocol[Row_co]):
    """A data set that is read by position."""

    def __len__(self) -> int:
        """How many rows it has."""
        ...

    def __getitem__(self, position: int, /) -> Row_co:
        """One row."""
        ...


class TaskPhases(ABC, Generic[Row]):
    """What is done around a retention, whatever takes the steps and holds the trained tensors."""

    def __init__(self, retention: Retention, seed: int) -> None:
        """Take a retention.

        Args:
            retention: What protects earlier tasks.
            seed: Chooses the examples that are looked at, and fresh adapters.
        """
        self.retention = retention
        self._seed = seed

    @abstractmethod
    def adapter_values(self) -> dict[str, Tensor]:
        """The trained tensors by name, whole."""

    @abstractmethod
    def _observations(self, examples: Sequence[Row]) -> Iterator[Observation]:
        """What the retention observes of each example, with the number of its scored tokens."""

    def _totals(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums of additive statistics over all workers; here there is one."""
        return statistics

    def begin_sequence(self, tasks: int, sources: Sequence[Rows[Row]]) -> None:
        """Let the retention make room for a sequence and read its source sets.

        Args:
            tasks: How many tasks will be learnt.
            sources: Data sets whose curvature is measured before the first task.
        """
        most = self.retention.max_examples
        observed = [self._observe(found, f"source {i}", most) for i, found in enumerate(sources)]
        self.retention.begin_sequence(
            self.adapter_values(), tasks=tasks, observed=observed, total=self._totals
        )

    def observe_beginning(self, index: int, examples: Rows[Row], reach: float) -> None:
        """Let the retention look at a task before its first step.

        Args:
            index: Which task, counted from 0.
            examples: Its training examples.
            reach: The sum of the learning rates of its steps.
        """
        self.retention.begin_task(
            self.adapter_values(),
            index,
            observed=self._observe(examples, f"beginning {index}", self.retention.looks_at),
            total=self._totals,
            reach=reach,
        )

    def end_task(self, index: int, examples: Rows[Row]) -> None:
        """Let the retention take in what was learnt: curvature, buffers.

        Args:
            index: Which task, counted from 0.
            examples: Its training examples.
        """
        observed = self._observe(examples, f"task {index}", self.retention.max_examples)
        self.retention.end_task(self.adapter_values(), index, observed, self._totals, len(examples))

    def _observe(self, examples: Rows[Row], moment: str, most: int) -> Iterator[Observation]:
        """What is observed of some examples, chosen at random and computed as it is asked for."""
        count = min(most, len(examples))
        if not self.retention.observes or not count:
            return
        # The first of one order of all: fewer examples are a part of more.
        every = range(len(examples))
        order = random.Random(f"{self._seed}/{moment}").sample(every, len(every))
        yield from self._observations([examples[position] for position in order[:count]])

    def _renewed(self, model: nn.Module, index: int) -> dict[str, Tensor]:
        """Freeze the last task's adapter where the retention asks for it.

        Args:
            model: The one whose adapter it is.
            index: Which task is to begin, counted from 0.

        Returns:
            What the trained tensors are to be now; empty where the adapter goes on.
        """
        if not self.retention.renews_adapter or index == 0:
            return {}
        freeze_earlier(model, self.retention.earlier)
        return fresh_values(model, self._seed * 1_000_003 + index)
