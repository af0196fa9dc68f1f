"""A learning generator under way: the request that waits for an answer, and its accounts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from orchestrator.data.items import Example
from orchestrator.loop.requests import (
    BeginSequence,
    BeginTask,
    EndTask,
    Evaluate,
    Learning,
    Report,
    Request,
    Taken,
    TrainStep,
)
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import Start
from orchestrator.loop.work_meter import WorkMeter
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport

EXPLODED = 30.0
"""A loss in nats per token that no learning explains: a uniform guess among a quarter of a million
tokens costs 12.4."""


class Phases(Protocol):
    """Who prepares for what is learnt, and lets the retention take it in."""

    def begin_sequence(self, tasks: int, sources: Sequence[Sequence[Example]]) -> None:
        """Let the retention make room for `tasks` tasks and read its source sets."""

    def begin_task(self, index: int, steps: int, examples: Sequence[Example] = ()) -> None:
        """Start task `index` of `steps` steps with fresh optimiser state and schedule.

        `examples` are those that will be learnt, for a retention that looks at a few.
        """

    def end_task(self, index: int, examples: Sequence[Example]) -> None:
        """Let the retention take in what task `index` taught."""


class SequenceRun:
    """Asks a learning generator what comes next, and keeps what its reports are completed with.

    Whoever drives it calls `advance`, computes what `request` asks for, notes it here, and calls
    `advance` with the answer.
    """

    def __init__(self, learning: Learning, meter: WorkMeter, start: Start | None = None) -> None:
        """Take a generator that has not been started.

        Args:
            learning: `learn_sequence` or `measure_base`.
            meter: Counts its work.
            start: Where it goes on; None: at the beginning.
        """
        self._learning = learning
        self._losses = [six_digits(loss) for loss in (start.losses if start else ())]
        self._rates = list(start.rates if start else ())
        self.meter = meter
        self.request: Request | None = None
        """What is to be answered; None before the first `advance`."""

    def advance(self, answer: Any = None) -> AccuracyMatrix | None:
        """Give the answer to `request`, and receive the next one.

        Args:
            answer: None at the first call, and to requests without an answer.

        Returns:
            The finished matrix once there is no other request, else None.
        """
        try:
            self.request = self._learning.send(answer)
        except StopIteration as finished:
            return finished.value
        return None

    def answered_by(self, phases: Phases) -> bool:
        """Let the beginning or the end of a task be prepared for.

        Args:
            phases: Who does so.

        Returns:
            Whether `request` was of this kind; if not, nothing was done.
        """
        match self.request:
            case BeginSequence(tasks=tasks, sources=sources):
                phases.begin_sequence(tasks, sources)
            case BeginTask(name=name, index=index, steps=steps, examples=examples):
                phases.begin_task(index, steps, examples)
                self.meter.begin(name, index, steps)
            case EndTask(index=index, examples=examples):
                phases.end_task(index, examples)
            case _:
                return False
        return True

    def trained(self, step: TrainStep, loss: float, rate: float) -> None:
        """Note a step.

        Args:
            step: What was learnt.
            loss: Its mean loss per scored token, in nats; NaN where the gradient is not finite.
            rate: Its learning rate.

        Raises:
            DivergedError: If no learning explains the loss; see `check_loss`.
        """
        check_loss(loss, step.step, self.meter.task)
        self._losses.append(six_digits(loss))
        self._rates.append(six_digits(rate))
        self.meter.train((*step.examples, *step.replayed), step.step, loss)

    def taken_over(self, taken: Taken) -> None:
        """Note that the task that begins need not be learnt."""
        self.meter.take_over(scored=taken.report is not None)

    def scored(self, asked: Evaluate) -> None:
        """Note that a task has been scored."""
        self.meter.evaluate(asked.task, len(asked.items))

    def report(
        self, asked: Report, *, seconds: float | None = None
    ) -> tuple[StageReport, AccuracyMatrix]:
        """Complete a report with the losses and learning rates since the last one.

        Args:
            asked: What is to be reported.
            seconds: What the trial has taken so far; None: what the generator says. A report that
                is taken over has its own.

        Returns:
            The report, and the matrix that belongs to it.
        """
        if asked.whole:
            return asked.report, asked.matrix
        report = replace(
            asked.report,
            seconds=asked.report.seconds if seconds is None else seconds,
            learning_rate=self._rates[-1] if self._rates else None,
            losses=tuple(self._losses),
            learning_rates=tuple(self._rates),
        )
        self._losses, self._rates = [], []
        return report, asked.matrix

    def pause(self, seconds: float) -> Start | None:
        """Where the trial could go on if it were saved now, between two steps of a task.

        Args:
            seconds: What it has taken so far.

        Returns:
            The place; None before the first step of a task, and while something is scored.
        """
        step = self.request
        if not isinstance(step, TrainStep) or not step.step:
            return None
        return Start(
            step.step, step.tokens, seconds, step.held_out_best, step.held_out_waited,
            losses=tuple(step.losses), rates=tuple(self._rates),
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the generator."""
        self._learning.close()


def six_digits(value: float) -> float:
    """A number as it is journalled."""
    return float(f"{value:.6g}")


def check_loss(loss: float, step: int, task: str) -> None:
    """Refuse a loss that no learning explains.

    Args:
        loss: Mean loss per scored token, in nats; NaN where the gradient is not finite.
        step: Counted from 0 within the task.
        task: Its name.

    Raises:
        DivergedError: If it is not finite, or above `EXPLODED`.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss or its gradient became {loss} at step {step + 1} of task {task!r}; "
            "lower the learning rate"
        )
    if loss > EXPLODED:
        raise DivergedError(
            f"the loss exploded to {loss:.1f} nats per token at step {step + 1} of task {task!r} "
            f"(more than {EXPLODED:g}); lower the learning rate"
        )
