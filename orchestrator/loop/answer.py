"""Answers a learning generator with an engine: losses, scores, progress and reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from orchestrator.data.items import Example
from orchestrator.data.model_inputs import Scored
from orchestrator.loop.requests import (
    BeginSequence,
    BeginTask,
    EndTask,
    Evaluate,
    FitHeadOnly,
    HeldOutLoss,
    Learning,
    Report,
    TrainStep,
)
from orchestrator.loop.scoring import Answers, DivergedError, score
from orchestrator.loop.task_sequence import Start, TaskSequence
from orchestrator.loop.work_meter import Progress, WorkMeter
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport

EXPLODED = 30.0
"""A loss in nats per token that no learning explains: a uniform guess among a quarter of a million
tokens costs 12.4."""


def six_digits(value: float) -> float:
    """A number as it is journalled."""
    return float(f"{value:.6g}")


class Engine(Answers, Protocol):
    """Who computes: holds the model, the optimiser and the device."""

    def begin_sequence(self, tasks: int, sources: Sequence[Sequence[Example]]) -> None:
        """Let the retention make room for `tasks` tasks and read its source sets."""

    def begin_task(self, index: int, steps: int, examples: Sequence[Example] = ()) -> None:
        """Start task `index` of `steps` steps with fresh optimiser state and schedule.

        `examples` are those that will be learnt, for a retention that looks at a few.
        """

    def train_step(
        self, examples: Sequence[Example], step: int, replayed: Sequence[Example] = ()
    ) -> float:
        """Take one optimiser step and give the mean loss per scored token, in nats.

        The loss is the task's (replayed examples included), without what the retention adds. It is
        NaN when the gradient is not finite.
        """
        ...

    def end_task(self, index: int, examples: Sequence[Example]) -> None:
        """Let the retention take in what task `index` taught."""

    def held_out_loss(self, examples: Sequence[Example]) -> float:
        """Mean loss per scored token of examples that are not learnt, in nats."""
        ...

    def hidden_states(self, rows: Sequence[Scored]) -> Any:
        """The last hidden state at the first pick of every row: a float32 tensor (rows, hidden)."""
        ...

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        ...

    def save(self, folder: Path, *, with_optimizer: bool) -> None:
        """Write what is needed to go on: safetensors and JSON."""


def run(
    learning: Learning,
    engine: Engine,
    *,
    sequence: TaskSequence,
    matrix: AccuracyMatrix,
    start: Start | None,
    on_report: Callable[[StageReport, AccuracyMatrix], None],
    on_progress: Callable[[Progress], None],
) -> AccuracyMatrix:
    """Answer a learning generator with an engine until it ends.

    Args:
        learning: `learn_sequence` or `measure_base`.
        engine: Who computes.
        sequence: What is learnt, for estimates of progress.
        matrix: Where learning started from, for the same purpose.
        start: Where in the task it started, for the same purpose; None when the untouched base is
            measured.
        on_report: Called with each report; a checkpoint belongs there.
        on_progress: Called after every step and every evaluation, on every rank.

    Returns:
        The finished matrix.

    Raises:
        DivergedError: If the loss stops being a finite number, or explodes.
    """
    meter = WorkMeter(sequence, matrix, start)
    losses: list[float] = []
    rates: list[float] = []
    answer: Any = None
    try:
        while True:
            request = learning.send(answer)
            answer = None
            match request:
                case BeginTask():
                    engine.begin_task(request.index, request.steps, request.examples)
                    meter.begin(request.name, request.index, request.steps)
                case TrainStep():
                    answer = engine.train_step(request.examples, request.step, request.replayed)
                    check_loss(answer, request.step, meter.task)
                    losses.append(six_digits(answer))
                    rates.append(six_digits(engine.learning_rate))
                    meter.train((*request.examples, *request.replayed), request.step, answer)
                    on_progress(meter.reading("training"))
                case Evaluate():
                    answer = score(request.items, request.task.spec, engine)
                    meter.evaluate(request.task, len(request.items))
                    on_progress(meter.reading("evaluating"))
                case FitHeadOnly():
                    from orchestrator.loop.head_only import head_only

                    answer = head_only(request.task, engine.hidden_states)
                    meter.fit_head(request.task)
                    on_progress(meter.reading("evaluating"))
                case BeginSequence() | HeldOutLoss() | EndTask():
                    answer = _passed_on(request, engine)
                case Report():
                    report = replace(
                        request.report,
                        learning_rate=rates[-1] if rates else None,
                        losses=tuple(losses),
                        learning_rates=tuple(rates),
                    )
                    losses, rates = [], []
                    on_report(report, request.matrix)
    except StopIteration as finished:
        return finished.value


def _passed_on(request: BeginSequence | HeldOutLoss | EndTask, engine: Engine) -> float | None:
    """Ask the engine what needs no accounts here."""
    match request:
        case BeginSequence():
            return engine.begin_sequence(request.tasks, request.sources)
        case HeldOutLoss():
            return engine.held_out_loss(request.examples)
        case EndTask():
            return engine.end_task(request.index, request.examples)


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
