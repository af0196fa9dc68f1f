"""Answers a learning generator with an engine: losses, scores, progress and reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from orchestrator.data.items import Example
from orchestrator.data.model_inputs import Scored
from orchestrator.loop.requests import (
    BeginTask,
    Evaluate,
    FitHeadOnly,
    HeldOutLoss,
    Learning,
    Report,
    Taken,
    TrainStep,
)
from orchestrator.loop.scoring import Answers, score
from orchestrator.loop.sequence_run import Phases, SequenceRun
from orchestrator.loop.task_sequence import Start, TaskSequence
from orchestrator.loop.work_meter import Progress, WorkMeter
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport


class Engine(Answers, Phases, Protocol):
    """Who computes: holds the model, the optimiser and the device."""

    def train_step(
        self, examples: Sequence[Example], step: int, replayed: Sequence[Example] = ()
    ) -> float:
        """Take one optimiser step and give the mean loss per scored token, in nats.

        The loss is the task's (replayed examples included), without what the retention adds. It is
        NaN when the gradient is not finite.
        """
        ...

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
    take_over: Callable[[int], Taken | None] = lambda _: None,
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
        take_over: Lets the engine go on from what another trial has learnt of a task that begins.

    Returns:
        The finished matrix.

    Raises:
        DivergedError: If the loss stops being a finite number, or explodes.
    """
    under_way = SequenceRun(learning, WorkMeter(sequence, matrix, start), start)
    answer: Any = None
    while (finished := under_way.advance(answer)) is None:
        answer = None
        match under_way.request:
            case TrainStep() as step:
                answer = engine.train_step(step.examples, step.step, step.replayed)
                under_way.trained(step, answer, engine.learning_rate)
                on_progress(under_way.meter.reading("training"))
            case Evaluate() as asked:
                answer = score(asked.items, asked.task.spec, engine)
                under_way.scored(asked)
                on_progress(under_way.meter.reading("evaluating"))
            case FitHeadOnly(task=task):
                from orchestrator.loop.head_only import head_only

                answer = head_only(task, engine.hidden_states)
                under_way.meter.fit_head(task)
                on_progress(under_way.meter.reading("evaluating"))
            case HeldOutLoss(examples=examples):
                answer = engine.held_out_loss(examples)
            case BeginTask(index=index):
                under_way.answered_by(engine)
                if (answer := take_over(index)) is not None:
                    under_way.taken_over(answer)
            case Report() as asked:
                on_report(*under_way.report(asked))
            case _:
                under_way.answered_by(engine)
    return finished
