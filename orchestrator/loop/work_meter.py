"""Progress of a trial, estimated from the tokens that it trains and evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.data.items import Example
from orchestrator.data.prepared import PreparedTask
from orchestrator.loop.task_sequence import Stage, Start, TaskSequence, rung_steps
from orchestrator.measures.accuracy_matrix import AccuracyMatrix


@dataclass(frozen=True)
class Progress:
    """How far a trial is, for people who wait."""

    phase: str
    """"training" or "evaluating"."""
    task: str
    task_index: int
    tasks: int
    step: int
    steps: int
    loss: float | None
    done: float
    """Share of the whole trial, in [0, 1], by estimated work."""


class WorkMeter:
    """Counts work: a token trained costs three times a token evaluated (forward and backward)."""

    def __init__(self, sequence: TaskSequence, matrix: AccuracyMatrix, start: Start | None) -> None:
        """Estimate what is left of a trial.

        Args:
            sequence: What is learnt and measured.
            matrix: What has been measured so far.
            start: Where in the task it goes on; None when the untouched base is measured.
        """
        self._sequence = sequence
        self._done = 0.0
        self._total = self._base_work() if start is None else self._work(matrix, start)
        start = start or Start()
        self.task = ""
        self._index = matrix.tasks_learnt - 1 if start.step == 0 else matrix.tasks_learnt
        self._step = start.step
        self._steps = 0
        self._loss: float | None = None
        if start.step:
            stage = next(s for s in sequence.stages if s.index >= matrix.tasks_learnt)
            self._index = stage.index
            self.task, self._steps = stage.name, len(sequence.batches(stage))

    def _base_work(self) -> float:
        heads = [t for t in self._sequence.tasks if t.labels]
        return self._row_work(0) + sum(map(_head_tokens, heads))

    def _row_work(self, learnt: int) -> float:
        tasks = sum(_evaluation_tokens(*asked) for asked in self._sequence.tasks_after(learnt))
        return tasks + sum(map(_evaluation_tokens, self._sequence.probes_after(learnt)))

    def _work(self, matrix: AccuracyMatrix, start: Start) -> float:
        work = 0.0
        left = [s for s in self._sequence.stages if s.index >= matrix.tasks_learnt]
        for stage in left:
            if self._sequence.inherits(stage):
                work += self._row_work(stage.index + 1)
                continue
            work += self._learning_work(stage, start.step if stage is left[0] else 0)
            work += self._row_work(stage.index + 1)
        return work

    def _learning_work(self, stage: Stage, first: int = 0) -> float:
        """The steps of a task from one on, and what is scored on the way."""
        batches = self._sequence.batches(stage)
        rungs = sum(step > first for step in rung_steps(len(batches)))
        limit = self._sequence.examples_at_rungs
        scored = rungs * sum(_evaluation_tokens(task, limit) for task in stage.tasks)
        return scored + 3 * sum(len(e.tokens) for batch in batches[first:] for e in batch)

    def begin(self, name: str, index: int, steps: int) -> None:
        """Note that a task of so many steps begins."""
        self.task, self._index, self._steps = name, index, steps
        self._step, self._loss = 0, None

    def take_over(self, *, scored: bool) -> None:
        """Note that the task that begins is taken over, with its scores or without them."""
        stage = next(s for s in self._sequence.stages if s.index == self._index)
        self._done += self._learning_work(stage)
        if scored:
            self._done += self._row_work(stage.index + 1)
        self._step = self._steps

    def train(self, examples: Sequence[Example], step: int, loss: float) -> None:
        """Note a step, counted from 0, on some examples, replayed ones included."""
        self._done += 3 * sum(len(e.tokens) for e in examples)
        self._step, self._loss = step + 1, loss

    def evaluate(self, task: PreparedTask, items: int) -> None:
        """Note that so many validation examples have been scored."""
        self._done += _evaluation_tokens(task, items)

    def fit_head(self, task: PreparedTask) -> None:
        """Note that a head has been fitted to the base."""
        self._done += _head_tokens(task)

    def reading(self, phase: str) -> Progress:
        """How far the trial is; `phase` is what it does now."""
        return Progress(
            phase=phase,
            task=self.task,
            task_index=max(self._index, 0),
            tasks=len(self._sequence.tasks),
            step=self._step,
            steps=self._steps,
            loss=self._loss,
            done=min(1.0, self._done / self._total) if self._total else 1.0,
        )


def _evaluation_tokens(task: PreparedTask, items: int | None = None) -> float:
    whole = float(task.facts.get("validation_tokens", 0))
    count = len(task.validation)
    return whole if items is None or not count else whole * min(items, count) / count


def _head_tokens(task: PreparedTask) -> float:
    return float(task.facts.get("train_tokens", 0)) + _evaluation_tokens(task)
