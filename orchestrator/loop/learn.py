"""The continual learning loop, as a generator of requests: it does not know who answers them.

A single process answers, or Ray Train workers with DeepSpeed, or a pack of trials; a run, a trial
and a resumption are this one path.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.data.prepared import PreparedTask
from orchestrator.loop.requests import (
    BeginSequence,
    BeginTask,
    EndTask,
    Evaluate,
    FitHeadOnly,
    HeldOutLoss,
    Learning,
    Report,
    Request,
    Taken,
    TrainStep,
)
from orchestrator.loop.scoring import DivergedError, Score
from orchestrator.loop.task_sequence import Stage, Start, TaskSequence, rung_steps
from orchestrator.measures.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.spec.methods import EarlyStoppingSpec

if TYPE_CHECKING:
    from curlora.retention.protocol import Retention


def measure_base(sequence: TaskSequence) -> Learning:
    """Row 0: the untouched base on every task and probe, and the head-only control."""
    began = time.monotonic()
    scores, probes = yield from _evaluate_all(sequence, learnt=0)
    heads: dict[str, Score] = {}
    for task in sequence.tasks:
        if task.labels:
            heads[task.name] = yield FitHeadOnly(task)
    matrix = AccuracyMatrix(tuple(t.name for t in sequence.tasks), (_row(scores),))
    report = replace(
        _end_report(
            None,
            0,
            scores,
            probes,
            examples_of=list(scores),
            counts=_counts(sequence.tasks_after(0)),
        ),
        head_only={name: scored.metrics for name, scored in heads.items()},
        head_only_per_example={name: scored.per_example for name, scored in heads.items()},
    )
    yield Report(replace(report, seconds=time.monotonic() - began), matrix)
    return matrix


def learn_sequence(
    sequence: TaskSequence, retention: Retention, matrix: AccuracyMatrix, start: Start
) -> Learning:
    """Learn the tasks that `matrix` does not hold yet, one after the other (or all at once).

    Args:
        sequence: Tasks, probes and their settings.
        retention: What protects earlier tasks; asked for the examples it adds to a batch. The
            engine calls the rest of it.
        matrix: What has been measured so far; row 0 may be NaN (it is measured elsewhere).
        start: Where in the current task to go on.

    Yields:
        Requests, in order; `TrainStep` and `HeldOutLoss` are answered with a loss, `Evaluate` with
        a `Score`, and `BeginTask` with `Taken` where the task need not be learnt.

    Returns:
        The finished matrix.
    """
    clock = _Clock(start.seconds)
    tokens = start.tokens
    matrix = yield from _begin(sequence, matrix, start, clock)
    for stage in sequence.stages:
        if stage.index < matrix.tasks_learnt:
            continue
        taken: Taken | None = None
        if start.step == 0:
            steps = len(sequence.batches(stage))
            taken = yield BeginTask(stage.name, stage.index, steps, sequence.examples(stage))
        if taken is None:
            learnt = yield from _learn(
                sequence, retention, stage, matrix, replace(start, tokens=tokens), clock
            )
        else:
            learnt, clock = _Learnt(taken.steps, taken.tokens), _Clock(taken.seconds)
        tokens, strength = learnt.tokens, retention.strength
        yield EndTask(stage.index, sequence.examples(stage))
        if taken is not None and taken.report is not None:
            report = replace(taken.report, strength=strength)
            matrix = matrix.with_row(report.row or ())
            yield Report(report, matrix, whole=True)
        else:
            matrix, report = yield from _score(sequence, stage, matrix, learnt)
            yield Report(
                replace(
                    report, seconds=clock.seconds(), strength=strength,
                    taken_from=None if taken is None else taken.source,
                ),
                matrix,
            )  # fmt: skip
        start = Start()
    return matrix


@dataclass(frozen=True)
class _Learnt:
    """A task that has been learnt."""

    steps: int
    """Those taken in it."""
    tokens: int
    """Of the trial so far."""
    losses: tuple[float, ...] = ()
    """Since the last report."""


def _learn(
    sequence: TaskSequence,
    retention: Retention,
    stage: Stage,
    matrix: AccuracyMatrix,
    start: Start,
    clock: _Clock,
) -> Generator[Request, Any, _Learnt]:
    """Take the steps of a task, and report on the way."""
    batches = sequence.batches(stage)
    rungs = rung_steps(len(batches))
    stopper = _Stopper(sequence.early_stopping, len(batches), start)
    losses = list(start.losses)
    taken, tokens = start.step, start.tokens
    while taken < len(batches):
        batch = batches[taken]
        replayed = sequence.replayed(retention, len(batch), stage, taken)
        losses.append(
            (yield TrainStep(batch, taken, replayed, tokens, stopper.best, stopper.waited, losses))
        )
        tokens += sum(len(example.tokens) for example in (*batch, *replayed))
        taken += 1
        if stopper.looks_at(taken):
            stopper.look((yield HeldOutLoss(sequence.held_out(stage))))
        if stopper.stops and taken < len(batches):
            break
        if taken in rungs:
            scores = yield from _evaluate_some(stage, sequence.examples_at_rungs)
            report = _rung_report(sequence, stage, scores)
            yield Report(
                replace(
                    report, step=taken, steps=len(batches), fraction=rungs[taken],
                    loss=_mean(losses), tokens=tokens, seconds=clock.seconds(),
                    held_out_best=stopper.best, held_out_waited=stopper.waited,
                    strength=retention.strength,
                ),
                matrix,
            )  # fmt: skip
            losses = []
    return _Learnt(taken, tokens, tuple(losses))


def _score(
    sequence: TaskSequence, stage: Stage, matrix: AccuracyMatrix, learnt: _Learnt
) -> Generator[Request, Any, tuple[AccuracyMatrix, StageReport]]:
    """Add the row of the matrix after a task, and report the task's end."""
    scores, probes = yield from _evaluate_all(sequence, learnt=stage.index + 1)
    while matrix.tasks_learnt < stage.index:  # learnt jointly: no row of its own
        matrix = matrix.with_row((NOT_MEASURED,) * len(sequence.tasks))
    matrix = matrix.with_row(_row(scores))
    own = [task.name for task in stage.tasks]
    whole = matrix.complete or sequence.scored.cells is not None
    report = _end_report(
        stage, learnt.steps, scores, probes, examples_of=list(scores) if whole else own,
        counts=_counts(sequence.tasks_after(stage.index + 1)),
    )  # fmt: skip
    return matrix, replace(
        report,
        loss=_mean(learnt.losses),
        tokens=learnt.tokens,
        probe_per_example=_each(probes) if sequence.raced and probes else None,
    )


def _begin(
    sequence: TaskSequence, matrix: AccuracyMatrix, start: Start, clock: _Clock
) -> Generator[Request, Any, AccuracyMatrix]:
    """Let a retention begin that has seen nothing, or score what another trial has learnt.

    Args:
        sequence: What is learnt.
        matrix: What has been measured so far.
        start: Where the trial goes on.
        clock: Of the trial.

    Yields:
        Requests, as `learn_sequence`.

    Returns:
        The matrix, with the row of the last task that another trial has learnt.

    Raises:
        ValueError: If the trial is to go on from another one, and nothing of that is there: an
            adapter that has learnt nothing would be taken for one that has.
    """
    if sequence.begins_from_nothing:
        if matrix.tasks_learnt == 0 and start.step == 0:
            yield BeginSequence(len(sequence.tasks), sequence.sources)
        return matrix
    if max(matrix.tasks_learnt, start.elsewhere) < sequence.inherited:
        raise ValueError(
            f"This trial goes on from another one's {sequence.inherited} tasks, and its checkpoint "
            "with what that one has learnt is missing. The same command writes it again."
        )
    for stage in sequence.stages[matrix.tasks_learnt : sequence.inherited]:
        scores, probes = yield from _evaluate_all(sequence, learnt=stage.index + 1)
        matrix = matrix.with_row(_row(scores))
        counts = _counts(sequence.tasks_after(stage.index + 1))
        report = _end_report(stage, 0, scores, probes, examples_of=list(scores), counts=counts)
        yield Report(replace(report, seconds=clock.seconds()), matrix)
    return matrix


class _Stopper:
    """Says when held-out examples have stopped getting likelier."""

    def __init__(self, spec: EarlyStoppingSpec | None, steps: int, start: Start) -> None:
        self._spec = spec
        self._every = max(1, math.ceil(steps / spec.checks)) if spec else 0
        self.best = start.held_out_best
        self.waited = start.held_out_waited

    def looks_at(self, taken: int) -> bool:
        return self._spec is not None and taken % self._every == 0

    def look(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss of held-out examples became {loss}; lower the learning rate"
            )
        better = self.best is None or loss < self.best
        self.waited = 0 if better else self.waited + 1
        self.best = loss if self.best is None else min(loss, self.best)

    @property
    def stops(self) -> bool:
        return self._spec is not None and self.waited >= self._spec.patience


class _Clock:
    """Seconds since it was made, added to what was spent before."""

    def __init__(self, before: float) -> None:
        self._zero = time.monotonic() - before

    def seconds(self) -> float:
        return round(time.monotonic() - self._zero, 3)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _row(scores: Mapping[str, Score]) -> tuple[float, ...]:
    return tuple(scored.value for scored in scores.values())


def _evaluate_all(
    sequence: TaskSequence, *, learnt: int
) -> Generator[Request, Any, tuple[dict[str, Score], dict[str, Score]]]:
    scores: dict[str, Score] = {}
    asked = {task.name: limit for task, limit in sequence.tasks_after(learnt)}
    for task in sequence.tasks:
        scores[task.name] = Score(math.nan)
        if task.name in asked:
            scores[task.name] = yield Evaluate(task, asked[task.name])
    probes: dict[str, Score] = {}
    for probe in sequence.probes_after(learnt):
        probes[probe.name] = yield Evaluate(probe)
    return scores, probes


def _evaluate_some(stage: Stage, limit: int | None) -> Generator[Request, Any, dict[str, Score]]:
    scores: dict[str, Score] = {}
    for task in stage.tasks:
        scores[task.name] = yield Evaluate(task, limit)
    return scores


def _rung_report(sequence: TaskSequence, stage: Stage, scores: Mapping[str, Score]) -> StageReport:
    """What is scored within a stage; where it is, and what it took, is yet to be filled in."""
    return StageReport(
        task=stage.name,
        task_index=stage.index,
        step=0,
        steps=0,
        fraction=DONE,
        score=sum(scored.value for scored in scores.values()) / len(scores),
        metrics={name: scored.metrics for name, scored in scores.items()},
        per_example=_each(scores) if sequence.raced else None,
        examples=_counts((t, sequence.examples_at_rungs) for t in stage.tasks),
    )


def _each(scores: Mapping[str, Score]) -> dict[str, tuple[float, ...]]:
    return {name: scored.per_example for name, scored in scores.items()}


def _end_report(
    stage: Stage | None,
    steps: int,
    scores: Mapping[str, Score],
    probes: Mapping[str, Score],
    *,
    examples_of: Sequence[str],
    counts: Mapping[str, int],
) -> StageReport:
    learnt = [scores[task.name].value for task in stage.tasks] if stage else []
    return StageReport(
        task=stage.name if stage else "",
        task_index=stage.index if stage else -1,
        step=steps,
        steps=steps,
        fraction=DONE,
        score=sum(learnt) / len(learnt) if learnt else math.nan,
        row=_row(scores),
        probes={name: scored.metrics for name, scored in probes.items()},
        metrics={name: scored.metrics for name, scored in scores.items() if scored.metrics},
        per_example={n: scores[n].per_example for n in examples_of if scores[n].per_example},
        examples=dict(counts),
    )


def _counts(asked: Iterable[tuple[PreparedTask, int | None]]) -> dict[str, int]:
    """By task, how many validation examples are scored."""
    return {task.name: len(task.validation[:limit]) for task, limit in asked}
