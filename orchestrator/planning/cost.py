"""Floating-point operations of a trial, the speed of a worker, and the time that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.base.devices import product_speed
from orchestrator.base.facts import BaseFacts
from orchestrator.executors.cluster_fit import pool_members
from orchestrator.planning.method_sizes import AdapterFacts
from orchestrator.planning.plan import Machine, Range, TaskFacts
from orchestrator.spec.experiment import Experiment

EFFICIENCY = (0.2, 0.6)
"""Share of the measured matrix-product speed that a whole step reaches: low and high."""
RUNGS = 2
"""Times that a task is scored before its end (at 1/4 and 1/2)."""


@dataclass(frozen=True)
class TrialCost:
    """Tokens and floating-point operations of one trial."""

    experiment: Experiment
    tasks: list[TaskFacts]
    base: BaseFacts | None
    adapters: list[AdapterFacts]
    epochs: int

    @property
    def train_tokens(self) -> int:
        """Tokens to learn from, over all tasks and epochs."""
        return self.epochs * sum(task.train_tokens for task in self.tasks)

    @property
    def one_evaluation(self) -> int:
        """Tokens of scoring every task once."""
        return sum(task.validation_tokens for task in self.tasks)

    @property
    def evaluation_tokens(self) -> int:
        """Tokens of all the times that tasks are scored."""
        return self._evaluated([task.validation_tokens for task in self.tasks])

    def _evaluated(self, counts: list[int]) -> int:
        """A count per task, summed over all the times that a trial scores it."""
        learnt = [(t, n) for t, n in zip(self.tasks, counts, strict=True) if not t.probe]
        rungs = sum(RUNGS * task.rung_share * number for task, number in learnt)
        rows = len(learnt) * sum(number for _, number in learnt)
        probed = 1 if self.experiment.data.probe_after == "last_task" else len(learnt)
        return round(rungs + rows + probed * (sum(counts) - sum(n for _, n in learnt)))

    @property
    def flops_train(self) -> float | None:
        """4 N for a frozen base (forward, and backward to what lies below), 6 P for the adapter."""
        if self.base is None:
            return None
        trained = max((adapter.trained for adapter in self.adapters), default=0)
        scored = self.epochs * sum(task.train_scored for task in self.tasks)
        body = self.train_tokens * (4 * self.base.body + 6 * trained)
        return body + scored * 4 * self.base.hidden * self.base.vocabulary

    @property
    def flops_evaluation(self) -> float | None:
        """2 N for a forward pass, and the logits of scored places."""
        if self.base is None:
            return None
        scored = self._evaluated([task.validation_scored for task in self.tasks])
        body = self.evaluation_tokens * 2 * self.base.body
        return body + scored * 2 * self.base.hidden * self.base.vocabulary

    def trial_seconds(self, flops: float | None) -> Range | None:
        """Seconds of a trial on workers of a speed; None when that is unknown."""
        if flops is None or self.flops_train is None or self.flops_evaluation is None:
            return None
        work = (self.flops_train + self.flops_evaluation) / self.experiment.resources.workers
        low, high = EFFICIENCY
        first, last = self.experiment.resources.facts.start_seconds
        return Range(work / (flops * high) + first, work / (flops * low) + last)


POOL_GAIN = 3.33
"""What stepping together gains at most over taking turns in one process on CPU: the largest that
`benchmarks/RESULTS.md` has, of batches of one row."""


def sweep_seconds(
    trial: Range | None, trials: int, at_once: int, experiment: Experiment, machine: Machine
) -> Range | None:
    """Seconds of all trials, so many at once; None when a trial's are unknown."""
    if trial is None or at_once == 0:
        return None
    if experiment.resources.facts.packs:
        # Those in one member share its passes; what is not packed takes a member's place.
        members = pool_members(experiment.resources, cpus=machine.cpus, gpus=machine.gpus)
        turns = math.ceil(trials / min(members, at_once))
        return Range(trial.low * turns / POOL_GAIN, trial.high * turns)
    rounds = math.ceil(trials / at_once)
    return Range(trial.low * rounds, trial.high * rounds)


def measure_flops(experiment: Experiment) -> float | None:
    """Floating-point operations a second of matrix products as one worker would compute them.

    Args:
        experiment: Says precision, threads and device.

    Returns:
        The speed; None when the file wants a GPU that is not here.
    """
    import torch

    on_gpu = experiment.resources.gpus_per_worker > 0
    if on_gpu and not torch.cuda.is_available():
        return None
    threads = experiment.resources.cpus_per_worker
    return product_speed(experiment.training.precision, threads=threads, on_gpu=on_gpu)
