"""The phases of a sequence of tasks in an engine: its workers share what a retention looks at."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from curlora.curvature.observation import Observation
from curlora.retention.protocol import Retention
from curlora.retention.task_phases import TaskPhases
from orchestrator.data.items import Example
from orchestrator.engines.optimizer import reach
from orchestrator.engines.row_batches import padded, scored_example
from orchestrator.engines.workers import Workers
from orchestrator.spec.sections import TrainingSpec


class RetentionPhases(TaskPhases[Example]):
    """What every engine does around a retention, whatever holds the adapter's tensors.

    All of its methods are collectives.
    """

    def __init__(
        self, retention: Retention, spec: TrainingSpec, workers: Workers, device: torch.device
    ) -> None:
        """Take a retention.

        Args:
            retention: What protects earlier tasks.
            spec: How its trial is trained.
            workers: Which of how many this is.
            device: Where workers sum what a retention has seen.
        """
        super().__init__(retention, spec.seed)
        self._spec = spec
        self._workers = workers
        self._device = device
        self._steps = 1

    @abstractmethod
    def _fresh(self, index: int) -> None:
        """Give task `index` fresh optimiser state, and a fresh adapter where it wants one."""

    @abstractmethod
    def _derivatives(self, examples: Sequence[Example]) -> Iterator[Observation]:
        """What the retention observes of each example, computed as it is asked for."""

    def begin_task(self, index: int, steps: int, examples: Sequence[Example] = ()) -> None:
        """Start a task with fresh optimiser state, and a fresh adapter where the retention asks."""
        self._steps = steps
        self._fresh(index)
        self.observe_beginning(index, examples, reach(self._spec, steps))

    def _observations(self, examples: Sequence[Example]) -> Iterator[Observation]:
        """This worker's shard of them."""
        mine = examples[self._workers.rank :: self._workers.world]
        # A ZeRO-3 forward is a collective, so no worker may run one example fewer than the others.
        padding = [examples[-1]] * (self._workers.max_rows(len(examples)) - len(mine))
        for number, observation in enumerate(self._derivatives([*mine, *padding])):
            if number < len(mine):
                yield replace(observation, scored=len(scored_example(mine[number]).picks))

    def _totals(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._workers.totals(statistics, self._device)


def log_probability(forward: Callable[..., Any], example: Example, device: torch.device) -> Tensor:
    """The log-probability of a training example.

    Args:
        forward: As `ScoredModel.forward`, in evaluation mode.
        example: The example.
        device: Where the model is.

    Returns:
        The sum over its scored tokens, in nats: a scalar with a graph.
    """
    row = scored_example(example)
    return forward(*padded([row], device), row.head).sum()
