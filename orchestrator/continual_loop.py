"""The heart: learning a task sequence, as a generator that asks and does not know who answers.

A single process answers it, or Ray Train workers with DeepSpeed; a run, a trial and a resumption
are this one path.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from orchestrator.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.batches import PreparedTask, Scored, epoch_batches
from orchestrator.encoding import Example
from orchestrator.evaluation import Answers, DivergedError, Score, score
from orchestrator.methods import EarlyStoppingSpec
from orchestrator.tasks import ClassificationTask

if TYPE_CHECKING:
    from curlora.retention.protocol import Retention

RUNGS = (0.25, 0.5)
"""Shares of a task after which a trial reports, besides the task's end."""
DONE = 1.0


EXPLODED = 30.0
"""A loss in nats per token that no learning explains: a uniform guess among a quarter of a million
tokens costs 12.4."""


@dataclass(frozen=True)
class StageReport:
    """What a trial reports at a rung or after a task."""

    task: str
    task_index: int
    """Counted from 0; -1 for the untouched base."""
    step: int
    """Optimiser steps taken in this task."""
    steps: int
    """Optimiser steps of this task in all."""
    fraction: float
    """1/4, 1/2 or 1 of the task."""
    score: float
    """Score of the current task; NaN for the base, which has none."""
    loss: float | None = None
    """Mean training loss since the last report, nats per scored token."""
    learning_rate: float | None = None
    """Of the last step."""
    losses: tuple[float, ...] = ()
    """Loss of each step since the last report, six digits; the last is that of step `step`."""
    learning_rates: tuple[float, ...] = ()
    """Learning rate of each of those steps."""
    tokens: int = 0
    """Useful (unpadded) training tokens of the trial so far."""
    seconds: float = 0.0
    """Wall seconds of the trial so far, start-up excluded."""
    row: tuple[float, ...] | None = None
    """Scores of all tasks of the sequence, at the end of a task."""
    probes: dict[str, dict[str, float]] | None = None
    held_out_best: float | None = None
    """Lowest loss on held-out examples within this task so far, where learning may stop early."""
    held_out_waited: int = 0
    """Looks at them in a row that were not lower."""
    strength: float | None = None
    """What multiplied the retention's penalty in this task, given or found; None without one."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Every metric of every task that was scored for this report."""
    per_example: dict[str, tuple[float, ...]] | None = None
    """Score of each validation example of what was just learnt; of all tasks after the last."""
    head_only: dict[str, dict[str, float]] | None = None
    """Of the untouched base: what a linear head on its hidden states scores, by classification
    task."""
    head_only_per_example: dict[str, tuple[float, ...]] | None = None
    """The same for each validation example."""

    def as_document(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> StageReport:
        """The report of `as_document`, JSON lists turned back into tuples."""
        fields = dict(document)
        if fields.get("row") is not None:
            fields["row"] = tuple(math.nan if v is None else v for v in fields["row"])
        for name in ("losses", "learning_rates"):
            fields[name] = tuple(fields.get(name) or ())
        for name in ("per_example", "head_only_per_example"):
            if fields.get(name) is not None:
                fields[name] = {k: tuple(v) for k, v in fields[name].items()}
        if fields.get("score") is None:
            fields["score"] = math.nan
        return cls(**fields)


@dataclass(frozen=True)
class Start:
    """Where to go on: how many steps of the current task are done, and what they cost."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    held_out_best: float | None = None
    held_out_waited: int = 0


@dataclass(frozen=True)
class BeginSequence:
    """Let the retention make room, and read the source sets that it has."""

    tasks: int
    sources: tuple[tuple[Example, ...], ...]


@dataclass(frozen=True)
class BeginTask:
    """Prepare for a task: fresh optimiser state and schedule."""

    name: str
    index: int
    """Counted from 0."""
    steps: int
    examples: tuple[Example, ...] = ()
    """What will be learnt; some retentions look at a few before the first step."""


@dataclass(frozen=True)
class TrainStep:
    """One optimiser step; answered with the mean loss per scored token."""

    examples: tuple[Example, ...]
    step: int
    """Counted from 0 within the task."""
    replayed: tuple[Example, ...] = ()
    """Examples of earlier tasks that the retention adds."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Look at examples that are not learnt; answered with their mean loss per scored token."""

    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Evaluate:
    """Score a task; answered with a `Score`."""

    task: PreparedTask
    limit: int | None = None
    """Number of validation examples; None for all."""


@dataclass(frozen=True)
class FitHeadOnly:
    """Fit a linear head to the frozen base; answered with its `Score` on the validation split."""

    task: PreparedTask


@dataclass(frozen=True)
class EndTask:
    """A task has been learnt; the retention takes in what it taught."""

    index: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Report:
    """Something to be recorded; a checkpoint belongs to it."""

    report: StageReport
    matrix: AccuracyMatrix


Request: TypeAlias = (
    BeginSequence | BeginTask | TrainStep | HeldOutLoss | Evaluate | FitHeadOnly | EndTask | Report
)
Learning: TypeAlias = Generator[Request, Any, AccuracyMatrix]


ALL_TASKS = "all tasks"
"""What is learnt where the tasks are learnt jointly."""


@dataclass(frozen=True)
class Stage:
    """What is learnt between two rows of the matrix: a task, or all of them jointly."""

    name: str
    index: int
    """The last task that has been learnt after it, counted from 0."""
    tasks: tuple[PreparedTask, ...]


@dataclass(frozen=True)
class TaskSequence:
    """What is learnt, what is only measured, and how long."""

    tasks: tuple[PreparedTask, ...]
    probes: tuple[PreparedTask, ...]
    batch_size: int
    epochs: int
    seed: int
    rung_examples: int | None = None
    probes_once: bool = False
    """Whether the probes wait for the last task."""
    joint: bool = False
    """Whether all tasks are learnt at once."""
    early_stopping: EarlyStoppingSpec | None = None
    sources: tuple[tuple[Example, ...], ...] = ()
    """Source sets that the retention reads before the first task."""

    @property
    def stages(self) -> list[Stage]:
        """What is learnt, in order."""
        if self.joint:
            return [Stage(ALL_TASKS, len(self.tasks) - 1, self.tasks)]
        return [Stage(task.name, index, (task,)) for index, task in enumerate(self.tasks)]

    def probes_after(self, learnt: int) -> tuple[PreparedTask, ...]:
        """The probes that are measured once so many tasks are learnt; all on the untouched base."""
        waits = self.probes_once and 0 < learnt < len(self.tasks)
        return () if waits else self.probes

    def examples(self, stage: Stage) -> tuple[Example, ...]:
        """The training examples of a stage that are learnt."""
        return tuple(e for task in stage.tasks for e in self._parts(task)[0])

    def held_out(self, stage: Stage) -> tuple[Example, ...]:
        """The training examples of a stage that only say when to stop."""
        return tuple(e for task in stage.tasks for e in self._parts(task)[1])

    def _parts(self, task: PreparedTask) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        if self.early_stopping is None:
            return task.train, ()
        order = list(task.train)
        random.Random(f"{self.seed}/{task.name}/held out").shuffle(order)
        count = min(max(1, round(self.early_stopping.held_out * len(order))), len(order) - 1)
        return tuple(order[count:]), tuple(order[:count])

    def batches(self, stage: Stage) -> list[tuple[Example, ...]]:
        """The optimiser steps of a stage."""
        return epoch_batches(
            self.examples(stage),
            self.batch_size,
            seed=self.seed * 1_000_003 + stage.index,
            epochs=self.epochs,
        )

    def replayed(
        self, retention: Retention, current: int, stage: Stage, step: int
    ) -> tuple[Example, ...]:
        """The examples of earlier tasks that a retention adds to a batch."""
        rows = retention.rows(current, stage.index, step)
        learnt = {task: self._parts(self.tasks[task])[0] for task in {task for task, _ in rows}}
        return tuple(learnt[task][place] for task, place in rows)


def rung_steps(steps: int) -> dict[int, float]:
    """The steps after which a task of `steps` steps reports, with the share each stands for.

    Very short tasks have fewer rungs: no rung at 0 steps, none at the end.

    Args:
        steps: Optimiser steps of the task.

    Returns:
        Steps taken to share of the task.
    """
    rungs: dict[int, float] = {}
    for share in RUNGS:
        step = math.floor(steps * share)
        if 0 < step < steps and step not in rungs:
            rungs[step] = share
    return rungs


def measure_base(sequence: TaskSequence) -> Learning:
    """Row 0: the untouched base on every task and probe, and the head-only control."""
    began = time.monotonic()
    scores, probes = yield from _evaluate_all(sequence, learnt=0)
    heads: dict[str, Score] = {}
    for task in sequence.tasks:
        if isinstance(task.spec, ClassificationTask):
            heads[task.name] = yield FitHeadOnly(task)
    matrix = AccuracyMatrix(tuple(t.name for t in sequence.tasks), (_row(scores),))
    report = replace(
        _end_report(None, 0, scores, probes, examples_of=list(scores)),
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
        Requests, in order; `TrainStep` and `HeldOutLoss` are answered with a loss and `Evaluate`
        with a `Score`.

    Returns:
        The finished matrix.
    """
    clock = _Clock(start.seconds)
    tokens = start.tokens
    if matrix.tasks_learnt == 0 and start.step == 0:
        yield BeginSequence(len(sequence.tasks), sequence.sources)
    for stage in sequence.stages:
        if stage.index < matrix.tasks_learnt:
            continue
        batches = sequence.batches(stage)
        rungs = rung_steps(len(batches))
        if start.step == 0:
            yield BeginTask(stage.name, stage.index, len(batches), sequence.examples(stage))
        stopper = _Stopper(sequence.early_stopping, len(batches), start)
        losses: list[float] = []
        taken = start.step
        while taken < len(batches):
            batch = batches[taken]
            replayed = sequence.replayed(retention, len(batch), stage, taken)
            losses.append((yield TrainStep(batch, taken, replayed)))
            tokens += sum(len(example.tokens) for example in (*batch, *replayed))
            taken += 1
            if stopper.looks_at(taken):
                stopper.look((yield HeldOutLoss(sequence.held_out(stage))))
            if stopper.stops and taken < len(batches):
                break
            if taken in rungs:
                value, metrics = yield from _evaluate_some(stage, sequence.rung_examples)
                yield Report(
                    StageReport(
                        task=stage.name, task_index=stage.index, step=taken, steps=len(batches),
                        fraction=rungs[taken], score=value, loss=_mean(losses), tokens=tokens,
                        seconds=clock.seconds(), held_out_best=stopper.best,
                        held_out_waited=stopper.waited, metrics=metrics,
                        strength=retention.strength,
                    ),
                    matrix,
                )  # fmt: skip
                losses = []
        strength = retention.strength
        yield EndTask(stage.index, sequence.examples(stage))
        scores, probes = yield from _evaluate_all(sequence, learnt=stage.index + 1)
        while matrix.tasks_learnt < stage.index:  # learnt jointly: no row of its own
            matrix = matrix.with_row((NOT_MEASURED,) * len(sequence.tasks))
        matrix = matrix.with_row(_row(scores))
        learnt = [task.name for task in stage.tasks]
        report = _end_report(
            stage, taken, scores, probes, examples_of=list(scores) if matrix.complete else learnt
        )
        yield Report(
            replace(
                report, loss=_mean(losses), tokens=tokens, seconds=clock.seconds(),
                strength=strength,
            ),
            matrix,
        )  # fmt: skip
        start = Start()
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


def six_digits(value: float) -> float:
    """A number as it is journalled."""
    return float(f"{value:.6g}")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _row(scores: Mapping[str, Score]) -> tuple[float, ...]:
    return tuple(scored.value for scored in scores.values())


def _evaluate_all(
    sequence: TaskSequence, *, learnt: int
) -> Generator[Request, Any, tuple[dict[str, Score], dict[str, Score]]]:
    scores: dict[str, Score] = {}
    for index, task in enumerate(sequence.tasks):
        # A head that has not been trained yet says nothing: there is no such score.
        missing = task.has_head and index >= learnt
        scores[task.name] = Score(math.nan) if missing else (yield Evaluate(task))
    probes: dict[str, Score] = {}
    for probe in sequence.probes_after(learnt):
        probes[probe.name] = yield Evaluate(probe)
    return scores, probes


def _evaluate_some(
    stage: Stage, limit: int | None
) -> Generator[Request, Any, tuple[float, dict[str, dict[str, float]]]]:
    """The mean score of the tasks of a stage, and every metric of each."""
    scores: dict[str, Score] = {}
    for task in stage.tasks:
        scores[task.name] = yield Evaluate(task, limit)
    value = sum(scored.value for scored in scores.values()) / len(scores)
    return value, {name: scored.metrics for name, scored in scores.items()}


def _end_report(
    stage: Stage | None,
    steps: int,
    scores: Mapping[str, Score],
    probes: Mapping[str, Score],
    *,
    examples_of: Sequence[str],
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
    )


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
                    items = request.task.validation[: request.limit]
                    answer = score(items, request.task.spec, engine)
                    meter.evaluate(request.task, len(items))
                    on_progress(meter.reading("evaluating"))
                case FitHeadOnly():
                    from orchestrator.head_only import head_only

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
        heads = [t for t in self._sequence.tasks if isinstance(t.spec, ClassificationTask)]
        return self._row_work(0) + sum(map(_head_tokens, heads))

    def _row_work(self, learnt: int) -> float:
        measured = (*self._sequence.tasks, *self._sequence.probes_after(learnt))
        return sum(map(_evaluation_tokens, measured))

    def _work(self, matrix: AccuracyMatrix, start: Start) -> float:
        work = 0.0
        left = [s for s in self._sequence.stages if s.index >= matrix.tasks_learnt]
        for stage in left:
            batches = self._sequence.batches(stage)
            first = start.step if stage is left[0] else 0
            work += 3 * sum(len(e.tokens) for batch in batches[first:] for e in batch)
            rungs = sum(step > first for step in rung_steps(len(batches)))
            limit = self._sequence.rung_examples
            work += rungs * sum(_evaluation_tokens(task, limit) for task in stage.tasks)
            work += self._row_work(stage.index + 1)
        return work

    def begin(self, name: str, index: int, steps: int) -> None:
        """Note that a task of so many steps begins."""
        self.task, self._index, self._steps = name, index, steps
        self._step, self._loss = 0, None

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
