"""Floating-point operations of a trial, the speed of a worker, and the time that follows."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.facts import BaseFacts
from orchestrator.executors.cluster_fit import pool_members
from orchestrator.loop.task_sequence import Scored, scored_of
from orchestrator.measures.matrix_cells import every_cell
from orchestrator.planning.method_sizes import MethodFacts
from orchestrator.planning.plan import Machine, TaskFacts
from orchestrator.planning.speed import Speed
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import EXECUTORS

USEFUL = 0.96
"""Share of the computed tokens that are no padding, see `benchmarks/useful_tokens.py`."""
PYTHON_SECONDS = 0.069
"""`Speed.python` of the machine on which the seconds of `EXECUTORS` were measured."""
READINGS = 2
"""Models whose test data are read at the end; those of the base are often known."""
CONTENDERS = 3
"""Trials whose whole matrix is scored before the verdict; seldom more are on the front."""
RUNGS = 2
"""Times that a task is scored before its end (at 1/4 and 1/2)."""


@dataclass(frozen=True)
class TrialCounts:
    """How many trials a sweep has of each sort."""

    packed: int
    """Trials that share the passes of a pool's member."""
    alone: int
    """Trials with workers of their own."""
    at_once: int
    """Of those, how many run at a time."""


@dataclass(frozen=True)
class TrialCost:
    """Tokens and floating-point operations of one trial."""

    experiment: Experiment
    tasks: list[TaskFacts]
    base: BaseFacts | None
    methods: list[MethodFacts]
    epochs: int

    @property
    def learnt(self) -> list[TaskFacts]:
        """The tasks that a trial learns itself."""
        return [task for task in self.tasks if not task.probe][self.experiment.inherited :]

    @property
    def train_tokens(self) -> int:
        """Tokens to learn from, over the tasks that a trial learns itself and all epochs."""
        return self.epochs * sum(task.train_tokens for task in self.learnt)

    @property
    def one_evaluation(self) -> int:
        """Tokens of scoring every task once."""
        return sum(task.validation_tokens for task in self.tasks)

    @property
    def evaluation_tokens(self) -> int:
        """Tokens of all the times that tasks are scored while a trial learns."""
        return self._evaluated([task.validation_tokens for task in self.tasks])

    @property
    def whole_tokens(self) -> int:
        """Tokens of scoring the whole matrix on all examples, rungs included."""
        return self._evaluated([task.validation_tokens for task in self.tasks], Scored())

    def _evaluated(self, counts: list[int], scored: Scored | None = None) -> int:
        """A count per task, summed over all the times that a trial scores it."""
        scored = scored_of(self.experiment) if scored is None else scored
        learnt = [(t, n) for t, n in zip(self.tasks, counts, strict=True) if not t.probe]
        before = self.experiment.inherited
        rungs = sum(RUNGS * task.rung_share * number for task, number in learnt[before:])
        cells = every_cell(len(learnt)) if scored.cells is None else scored.cells
        # What another trial has learnt is scored once, as it was.
        cells = {cell for cell in cells if cell[0] >= before}
        share = [1.0 if scored.cells is None else task.screen_share for task, _ in learnt]
        rows = sum(share[column] * learnt[column][1] for _, column in cells)
        asked = self.experiment
        each = scored.cells is None or asked.races
        each &= asked.data.probe_after == "each_task"
        probed = int(scored.probes) * (len(learnt) - before if each else 1)
        return round(rungs + rows + probed * (sum(counts) - sum(n for _, n in learnt)))

    @property
    def flops_train(self) -> float | None:
        """4 N for a frozen base (forward, and backward to what lies below), 6 P for the adapter."""
        if self.base is None:
            return None
        trained = max((method.adapter.trained for method in self.methods), default=0)
        scored = self.epochs * sum(task.train_scored for task in self.learnt)
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

    def work_seconds(self, speed: Speed | None) -> float | None:
        """Seconds that one worker takes for a trial's learning and scoring; None if unknown."""
        if speed is None or self.base is None:
            return None
        learn = self._learning(self.base, self.learnt) * self.learnt_again
        score = self.evaluation_tokens + _output(self.base) * self._evaluated(
            [task.validation_scored for task in self.tasks]
        )
        return (learn * speed.learn + score * speed.score) / USEFUL

    def joint_seconds(self, speed: Speed | None) -> float:
        """By how much learning all tasks jointly takes longer than learning on from a trial.

        Args:
            speed: Of one worker.

        Returns:
            Seconds; 0 where a sweep goes on from no trial, or has nothing trained beside it.
        """
        if speed is None or self.base is None or not self.experiment.compared_trials:
            return 0.0
        before = [task for task in self.tasks if not task.probe and task not in self.learnt]
        return self._learning(self.base, before) * speed.learn / USEFUL

    def _learning(self, base: BaseFacts, tasks: list[TaskFacts]) -> float:
        """Tokens of learning some tasks, scored places counted by what the output layer costs."""
        tokens = sum(task.train_tokens for task in tasks)
        return self.epochs * (tokens + _output(base) * sum(task.train_scored for task in tasks))

    @property
    def learnt_again(self) -> float:
        """How often a training token is read, on the mean over the file's methods."""
        kinds = [RETENTIONS[method.retention] for method in self.methods]
        return statistics.mean([2.0 if kind.replays else 1.0 for kind in kinds] or [1.0])


def _output(base: BaseFacts) -> float:
    """What a scored place costs: as much more as the output layer is to the body."""
    return base.hidden * base.vocabulary / base.body


def sweep_seconds(
    cost: TrialCost, speed: Speed | None, trials: TrialCounts, machine: Machine
) -> float | None:
    """Seconds of a sweep, from the command to its verdict; None where the speed is unknown.

    Args:
        cost: Of one trial.
        speed: Of one worker.
        trials: How many there are of each sort.
        machine: What they run on.

    Returns:
        What a sweep in which nothing is stopped, cached or interrupted takes.
    """
    work, resources = cost.work_seconds(speed), cost.experiment.resources
    if work is None or speed is None:
        return None
    facts, slower = resources.facts, speed.python / PYTHON_SECONDS
    places = max(1, pool_members(resources, cpus=machine.cpus, gpus=machine.gpus))
    seconds = facts.sweep_start * slower
    base = cost.one_evaluation * speed.score / USEFUL
    if facts.packs:
        # The base takes a member's time as well, and members share nothing of a trial.
        fullest = math.ceil(trials.packed / places) * work
        seconds += max(fullest, (trials.packed * work + base) / places)
    else:
        seconds += base / resources.workers
    if trials.alone:
        own = EXECUTORS["train"] if facts.packs else facts
        each = work / resources.workers + own.trial_start * slower
        at_once = min(trials.at_once, places)
        seconds += math.ceil(trials.alone / max(1, at_once)) * each
    rest = (cost.whole_tokens - cost.evaluation_tokens) * speed.score / USEFUL
    contenders = min(CONTENDERS, trials.packed + trials.alone)
    seconds += contenders * max(0.0, rest) / min(contenders or 1, places)
    seconds += cost.joint_seconds(speed) / resources.workers
    return seconds + READINGS * base / resources.workers
