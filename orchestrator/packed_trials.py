"""Many trials on one frozen base, stepped together: each learning generator is answered in turn.

A *slot* holds one trial: its adapter in a pack (`curlora.packed`), its retention, its place in its
own sequence. In every tick each slot that wants to learn takes one optimiser step, all of them in
as few passes of the base as their lengths allow, and what others want to have scored shares
forward passes. What a trial computes is what it would compute alone, up to rounding.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import curlora
from curlora.curvature import adapted_layers, observe
from curlora.packed import PACKED_KINDS, Moments, PackedModel
from curlora.retention import RETENTIONS
from curlora.retention.protocol import Observation, Retention, alone
from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.batches import Scored
from orchestrator.checkpoints import read_json, read_tensors, write_json, write_tensors
from orchestrator.continual_loop import (
    DONE,
    BeginSequence,
    BeginTask,
    DivergedError,
    EndTask,
    Evaluate,
    FitHeadOnly,
    HeldOutLoss,
    Learning,
    Progress,
    Report,
    StageReport,
    TaskSequence,
    TrainStep,
    WorkMeter,
    check_loss,
    learn_sequence,
    six_digits,
)
from orchestrator.encoding import Example, Tokens
from orchestrator.engine import RETENTION_FILE, WEIGHTS_FILE
from orchestrator.evaluation import score
from orchestrator.experiment import Experiment, TrainingSpec
from orchestrator.methods import MethodSpec, adapter_options, retention_options
from orchestrator.optimisation import schedule_factor
from orchestrator.scored_model import ScoredModel, bucketed, padded, scored_example
from orchestrator.tasks import GenerationTask
from orchestrator.trial_state import TrialState, fresh_state, read_state, write_state
from orchestrator.writing import prompt_batches, write_batch

PACKED_RETENTIONS = ("none", "ewc", "laplace", "replay")
"""What may protect earlier tasks in a pack."""
SAME_LENGTH = 0.6
"""Slots whose longest rows differ by no more than this factor are padded to the same length."""
_OPTIMIZER_FILE = "optimizer-rank0.safetensors"
_ENGINE_FILE = "engine.json"


def packing_refuses(method: MethodSpec) -> str | None:
    """Why a method cannot be trained in a pack.

    Args:
        method: The method.

    Returns:
        A sentence, or None where it can.
    """
    adapter, retention = method.adapter, method.retention.kind
    if adapter.kind not in PACKED_KINDS:
        return f"the adapter {adapter.kind!r} is not one of {', '.join(PACKED_KINDS)}"
    if getattr(adapter, "dropout", 0.0):
        return "dropout would depend on who else is in the pack"
    if retention not in PACKED_RETENTIONS:
        return f"the retention {retention!r} is not one of {', '.join(PACKED_RETENTIONS)}"
    return None


@dataclass
class _Slot:
    """One trial in the pack."""

    number: int
    name: str
    learning: Learning
    spec: TrainingSpec
    retention: Retention
    on_report: Callable[[StageReport, AccuracyMatrix], None]
    state: TrialState
    """As of its last report."""
    meter: WorkMeter
    request: Any = None
    steps: int = 1
    seconds: float = 0.0
    """Its share of the time so far, by tokens where passes are shared."""
    losses: list[float] = field(default_factory=list[float])
    rates: list[float] = field(default_factory=list[float])


@dataclass(frozen=True)
class Ended:
    """How a trial ended."""

    name: str
    matrix: AccuracyMatrix | None
    """None for a trial that failed."""
    reason: str = ""


class PackedTrials:
    """One base and the trials that learn on it at the same time."""

    def __init__(
        self,
        base: Any,
        target_modules: list[str] | str | None,
        *,
        capacity: int,
        batch_tokens: int,
        tokenizer: Any = None,
    ) -> None:
        """Take a base.

        Args:
            base: A frozen causal language model without an adapter.
            target_modules: The layers of all adapters; None: the family's default.
            capacity: Most trials at a time.
            batch_tokens: Padded tokens of one pass.
            tokenizer: Needed where a task is scored on written text.
        """
        self._base = base
        self._scored = ScoredModel(base).eval()
        self._pack = PackedModel(base, target_modules, capacity=capacity)
        self._device = next(base.parameters()).device
        self._batch_tokens = batch_tokens
        self._tokenizer = tokenizer
        self._slots: dict[int, _Slot] = {}
        self._free = list(range(capacity))

    @property
    def free(self) -> int:
        """How many more trials there is room for."""
        return len(self._free)

    @property
    def names(self) -> list[str]:
        """The trials that are learning, in the order of their slots."""
        return [slot.name for _, slot in sorted(self._slots.items())]

    def join(
        self,
        name: str,
        experiment: Experiment,
        sequence: TaskSequence,
        on_report: Callable[[StageReport, AccuracyMatrix], None],
        snapshot: Path | None = None,
    ) -> list[Ended]:
        """Let a trial begin, or go on from where it was saved.

        Args:
            name: The trial's name.
            experiment: Its experiment, overrides applied.
            sequence: What it learns.
            on_report: Told of each report; `save` and `save_adapter` may be called within.
            snapshot: A folder that `save` wrote, or a `PlainEngine` beside `trial.json`; None: the
                trial begins.

        Returns:
            The trial itself if it has ended already, else nothing.

        Raises:
            ValueError: If there is no room, or the trial cannot be packed, or the snapshot is not
                one of this trial.
            OSError: If the snapshot cannot be read.
        """
        if not self._free:
            raise ValueError(f"There is no room for {name!r}: {len(self._slots)} trials learn now.")
        self._check(name, experiment, sequence)
        state = fresh_state(sequence) if snapshot is None else read_state(snapshot)
        number = self._free.pop(0)
        spec, method = experiment.training, experiment.method
        options = adapter_options(method.adapter)
        try:
            self._pack.join(number, method.adapter.kind, options, seed=spec.seed)
        except ValueError:
            self._free.insert(0, number)
            raise
        retention = RETENTIONS[method.retention.kind].build(
            retention_options(method.retention, spec.seed)
        )
        learning = learn_sequence(sequence, retention, state.matrix, state.start)
        slot = _Slot(
            number,
            name,
            learning,
            spec,
            retention,
            on_report,
            state,
            WorkMeter(sequence, state.matrix, state.start),
            seconds=state.start.seconds,
        )
        self._slots[number] = slot
        if type(retention).bind is not Retention.bind:  # most kinds do not ask
            solo = self._pack.solo(number)
            retention.bind(adapted_layers(solo, curlora.trainable_parameters(solo)))
        if snapshot is not None:
            try:
                self._restore(slot, snapshot)
            except BaseException:
                self._end(slot, None)
                raise
        return self._advance(slot, None)

    def _restore(self, slot: _Slot, snapshot: Path) -> None:
        self._pack.load_state(slot.number, read_tensors(snapshot / WEIGHTS_FILE))
        if (snapshot / RETENTION_FILE).is_file():
            carried = read_tensors(snapshot / RETENTION_FILE)
            slot.retention.load_state_dict({n: t.to(self._device) for n, t in carried.items()})
        if slot.state.start.step > 0:
            # Inside a task, so its beginning is not asked for again.
            slot.steps = int(read_json(snapshot / _ENGINE_FILE)["steps"])
            tensors = read_tensors(snapshot / _OPTIMIZER_FILE)
            names = list(self._pack.state(slot.number))
            self._pack.load_moments(slot.number, _moments(tensors, names))

    def _check(self, name: str, experiment: Experiment, sequence: TaskSequence) -> None:
        reason = packing_refuses(experiment.method)
        if reason is None and experiment.training.accumulation != 1:
            reason = "`training.accumulation` must be 1"
        if reason is None and any(task.has_head for task in sequence.tasks):
            reason = "linear heads have not been built for packs"
        if reason is not None:
            raise ValueError(
                f"The trial {name!r} cannot be packed: {reason}. Use `resources.executor: train`."
            )

    def unhook(self) -> None:
        """Give the base its own forward back; nobody may be in the pack, and nobody can join."""
        self._pack.unhook()

    def drop(self, name: str) -> None:
        """Forget a trial, whatever it has learnt: its slot is free.

        Args:
            name: A trial that is learning.

        Raises:
            ValueError: No such trial is learning.
        """
        slot = self._slot(name)
        slot.learning.close()
        self._end(slot, None)

    def tick(self) -> list[Ended]:
        """Let every trial go on by one step, or by one round of scoring.

        Returns:
            The trials that ended.
        """
        learners = [s for s in self._slots.values() if isinstance(s.request, TrainStep)]
        readers = [s for s in self._slots.values() if not isinstance(s.request, TrainStep)]
        ended: list[Ended] = []
        if learners:
            began = time.monotonic()
            losses = self._learn(learners)
            self._charge({s.number: self._rows(s.request) for s in learners}, began)
            for slot in learners:
                with _charged(slot):
                    ended += self._learnt(slot, losses[slot.number])
        if readers:
            began = time.monotonic()
            answers = self._read(readers)
            self._charge({s.number: _asked_rows(s.request) for s in readers}, began)
            for slot in readers:
                with _charged(slot):
                    ended += self._advance(slot, answers[slot.number])
        return ended

    def _charge(self, rows: Mapping[int, Sequence[Scored]], began: float) -> None:
        """Divide the time since `began` among slots, by their useful tokens."""
        spent = time.monotonic() - began
        tokens = {n: sum(len(row.tokens) for row in mine) for n, mine in rows.items()}
        total = sum(tokens.values())
        for number, count in tokens.items():
            # Texts that are written have no rows to count: equal shares.
            share = count / total if total else 1 / len(tokens)
            self._slots[number].seconds += spent * share

    def save_adapter(self, name: str, folder: Path) -> None:
        """Write a trial's adapter, as `curlora.load_adapter` reads it."""
        curlora.save_adapter(self._pack.solo(self._slot(name).number), folder)

    def state(self, name: str) -> TrialState:
        """Where a trial is: its reports, up to and including the one being made."""
        return self._slot(name).state

    def progress(self, name: str) -> Progress:
        """How far a trial is, by estimated work.

        Args:
            name: A trial that is learning.

        Returns:
            As of its last step or evaluation.

        Raises:
            ValueError: No such trial is learning.
        """
        slot = self._slot(name)
        trains = isinstance(slot.request, TrainStep)
        return slot.meter.reading("training" if trains else "evaluating")

    def save(self, name: str, folder: Path) -> None:
        """Write what a trial needs to go on from the report being made, here or anywhere else.

        The folder is a checkpoint of `PlainEngine` (see `orchestrator.engine`) and `trial.json`.

        Args:
            name: A trial that is learning.
            folder: Where to write; made if missing.

        Raises:
            ValueError: No such trial is learning.
            RuntimeError: It is not called from within the trial's `on_report`.
        """
        slot = self._slot(name)
        match slot.request:
            case Report(report=report):
                inside = report.fraction < DONE
            case _:
                raise RuntimeError(
                    f"The trial {name!r} is between two reports, where it cannot go on from. Call "
                    "`save` from within its `on_report`."
                )
        values = self._pack.state(slot.number)
        write_tensors(folder / WEIGHTS_FILE, values)
        carried = slot.retention.state_dict()
        if carried:
            write_tensors(folder / RETENTION_FILE, carried)
        if inside:
            tensors = _optimizer_tensors(self._pack.moments(slot.number), values)
            write_tensors(folder / _OPTIMIZER_FILE, tensors)
        write_json(folder / _ENGINE_FILE, {"steps": slot.steps, "world": 1})
        write_state(folder, slot.state)

    def _slot(self, name: str) -> _Slot:
        for slot in self._slots.values():
            if slot.name == name:
                return slot
        raise ValueError(f"No trial {name!r} is learning here. There are: {self.names}.")

    # ------------------------------------------------------------------ asking the generators

    def _learnt(self, slot: _Slot, loss: float) -> list[Ended]:
        step = slot.request.step
        try:
            check_loss(loss, step, slot.meter.task)
        except DivergedError as error:
            return [self._end(slot, None, str(error))]
        slot.losses.append(six_digits(loss))
        rate = slot.spec.learning_rate * schedule_factor(slot.spec, step, slot.steps)
        slot.rates.append(six_digits(rate))
        slot.meter.train((*slot.request.examples, *slot.request.replayed), step, loss)
        slot.retention.after_step(self._pack.state(slot.number))
        return self._advance(slot, loss)

    def _advance(self, slot: _Slot, answer: Any) -> list[Ended]:
        """Give a generator its answer, and go on to what needs the base."""
        try:
            while True:
                slot.request = slot.learning.send(answer)
                if not self._answered(slot):
                    return []
                answer = None
        except StopIteration as finished:
            return [self._end(slot, finished.value)]

    def _answered(self, slot: _Slot) -> bool:
        """Do what a request asks that needs no pass of the pack; whether that was all."""
        match slot.request:
            case BeginSequence(tasks=tasks, sources=sources):
                observed = [self._observe(slot, s, f"source {i}") for i, s in enumerate(sources)]
                slot.retention.begin_sequence(
                    self._pack.state(slot.number), tasks=tasks, observed=observed
                )
            case BeginTask(name=name, index=index, steps=steps):
                slot.steps = steps
                slot.meter.begin(name, index, steps)
                self._pack.begin(slot.number)
                slot.retention.begin_task(self._pack.state(slot.number), index)
            case EndTask(index=index, examples=examples):
                observed_now = self._observe(slot, examples, f"task {index}")
                slot.retention.end_task(
                    self._pack.state(slot.number), index, observed_now, alone, len(examples)
                )
            case Report(report=report, matrix=matrix):
                whole = replace(
                    report,
                    seconds=round(slot.seconds, 3),
                    learning_rate=slot.rates[-1] if slot.rates else None,
                    losses=tuple(slot.losses),
                    learning_rates=tuple(slot.rates),
                )
                slot.losses, slot.rates = [], []
                slot.state = slot.state.after(whole, matrix)
                slot.on_report(whole, matrix)
            case FitHeadOnly():
                raise ValueError("Row 0 is measured on the bare base, not in a pack.")
            case _:
                return False
        return True

    def _end(self, slot: _Slot, matrix: AccuracyMatrix | None, reason: str = "") -> Ended:
        del self._slots[slot.number]
        self._pack.leave(slot.number)
        self._free.append(slot.number)
        return Ended(slot.name, matrix, reason)

    # ------------------------------------------------------------------ learning

    def _learn(self, learners: Sequence[_Slot]) -> dict[int, float]:
        """One optimiser step of each; the mean loss per scored token, NaN where it has none."""
        losses: dict[int, float] = {}
        for group in self._groups(learners):
            losses |= self._backward(group)
        for slot in learners:
            self._add_penalty(slot)
        rates = {
            s.number: s.spec.learning_rate * schedule_factor(s.spec, s.request.step, s.steps)
            for s in learners
        }
        norms = self._pack.step(
            rates,
            weight_decay={s.number: s.spec.weight_decay for s in learners},
            max_norm={s.number: s.spec.max_grad_norm or math.inf for s in learners},
        )
        return {n: loss if math.isfinite(norms[n]) else math.nan for n, loss in losses.items()}

    def _groups(self, learners: Sequence[_Slot]) -> Iterator[list[tuple[_Slot, list[Scored]]]]:
        """Slots of similar lengths, as many as fit into a pass."""
        rows = {s.number: self._rows(s.request) for s in learners}
        longest = {n: max(len(row.tokens) for row in found) for n, found in rows.items()}
        # Slots of one kind stay neighbours, where their products are one.
        order = sorted(learners, key=lambda s: (-longest[s.number], s.number))
        group: list[tuple[_Slot, list[Scored]]] = []
        count = 0
        for slot in order:
            mine = rows[slot.number]
            length = longest[group[0][0].number] if group else longest[slot.number]
            full = (count + len(mine)) * length > self._batch_tokens
            if group and (full or longest[slot.number] < SAME_LENGTH * length):
                yield group
                group, count = [], 0
            group.append((slot, mine))
            count += len(mine)
        yield group

    @staticmethod
    def _rows(request: TrainStep) -> list[Scored]:
        return [scored_example(e) for e in (*request.examples, *request.replayed)]

    def _backward(self, group: Sequence[tuple[_Slot, list[Scored]]]) -> dict[int, float]:
        rows = [row for _, mine in group for row in mine]
        slot_of_row = [slot.number for slot, mine in group for _ in mine]
        owners = [i for i, (_, mine) in enumerate(group) for row in mine for _ in row.picks]
        scored = [sum(len(row.picks) for row in mine) for _, mine in group]
        with self._pack.rows(slot_of_row):
            found = self._scored(*padded(rows, self._device))
        owner = torch.tensor(owners, device=self._device)
        sums = found.new_zeros(len(group)).index_add(0, owner, -found)
        losses = sums / torch.tensor(scored, dtype=sums.dtype, device=self._device)
        losses.sum().backward()
        return {s.number: v for (s, _), v in zip(group, losses.tolist(), strict=True)}

    def _add_penalty(self, slot: _Slot) -> None:
        if slot.retention.kind == "none":
            return
        state = {n: t.requires_grad_() for n, t in self._pack.state(slot.number).items()}
        penalty = slot.retention.penalty(state)
        if penalty.requires_grad:
            found = torch.autograd.grad(
                penalty, list(state.values()), allow_unused=True, materialize_grads=True
            )
            self._pack.add_gradients(slot.number, dict(zip(state, found, strict=True)))

    def _observe(
        self, slot: _Slot, examples: Sequence[Example], name: str
    ) -> Iterator[Observation]:
        """The derivatives that a retention asks for, of its trial's adapter alone."""
        if not slot.retention.observes:
            return
        count = min(slot.retention.max_examples, len(examples))
        chosen = random.Random(f"{slot.spec.seed}/{name}").sample(list(examples), count)
        solo: Any = self._pack.solo(slot.number)
        scored = ScoredModel(solo).eval()
        params = curlora.trainable_parameters(solo)

        def log_probability(example: Example) -> Tensor:
            return scored(*padded([scored_example(example)], self._device)).sum()

        yield from observe(solo, log_probability, params, chosen, slot.retention.observes)

    # ------------------------------------------------------------------ scoring

    def _read(self, readers: Sequence[_Slot]) -> dict[int, Any]:
        """What each of some slots wants to have scored, in shared forward passes."""
        wanted: dict[int, list[Scored]] = {}
        for slot in readers:
            wanted[slot.number] = _asked_rows(slot.request)
        owners = [number for number, rows in wanted.items() for _ in rows]
        everything = [row for rows in wanted.values() for row in rows]
        values = self._log_probabilities(everything, owners)
        by_slot: dict[int, list[list[float]]] = {number: [] for number in wanted}
        for number, one in zip(owners, values, strict=True):
            by_slot[number].append(one)
        return {slot.number: self._scored_answer(slot, by_slot[slot.number]) for slot in readers}

    def _scored_answer(self, slot: _Slot, values: list[list[float]]) -> Any:
        request = slot.request
        if isinstance(request, HeldOutLoss):
            flat = [value for row in values for value in row]
            return -sum(flat) / len(flat)
        items = request.task.validation[: request.limit]
        answer = score(items, request.task.spec, _Known(values, self, slot.number))
        slot.meter.evaluate(request.task, len(items))
        return answer

    def _log_probabilities(
        self, rows: Sequence[Scored], owners: Sequence[int]
    ) -> list[list[float]]:
        result: list[list[float]] = [[] for _ in rows]
        with torch.no_grad():
            for batch in bucketed(rows, self._batch_tokens):
                # Rows of a slot are neighbours.
                batch.sort(key=lambda i: owners[i])
                chosen = [rows[i] for i in batch]
                with self._pack.rows([owners[i] for i in batch]):
                    values = self._scored(*padded(chosen, self._device)).tolist()
                for index, row in zip(batch, chosen, strict=True):
                    result[index], values = values[: len(row.picks)], values[len(row.picks) :]
        return result

    def write(self, number: int, prompts: Sequence[Tokens], task: GenerationTask) -> list[str]:
        """What the model of one slot writes after each prompt."""
        result = [""] * len(prompts)
        for batch in prompt_batches(prompts, task, self._batch_tokens):
            with self._pack.rows([number] * len(batch)):
                texts = write_batch(
                    self._base, self._tokenizer, [prompts[i] for i in batch], task, self._device
                )
            for index, text in zip(batch, texts, strict=True):
                result[index] = text
        return result


@contextmanager
def _charged(slot: _Slot) -> Iterator[None]:
    """Charge a slot for what is done for it alone."""
    began = time.monotonic()
    yield
    slot.seconds += time.monotonic() - began


class _Asked(Exception):  # noqa: N818 (nothing went wrong)
    """Carries the rows that a score is read from."""

    def __init__(self, rows: Sequence[Scored]) -> None:
        super().__init__()
        self.rows = list(rows)


class _Asking:
    """Answers nothing: tells which rows a score needs."""

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        raise _Asked(rows)

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str]:
        del prompts, task
        raise _Asked([])


@dataclass(frozen=True)
class _Known:
    """Answers with what was computed."""

    values: list[list[float]]
    trials: PackedTrials
    number: int

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        del rows
        return self.values

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str]:
        return self.trials.write(self.number, prompts, task)


def _asked_rows(request: Evaluate | HeldOutLoss) -> list[Scored]:
    """The rows whose log-probabilities a request needs; none where texts are written."""
    if isinstance(request, HeldOutLoss):
        return [scored_example(example) for example in request.examples]
    try:
        score(request.task.validation[: request.limit], request.task.spec, _Asking())
    except _Asked as asked:
        return asked.rows
    return []


def _optimizer_tensors(moments: Moments, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A slot's optimiser state as `checkpoints.flat_state` lays out torch's own."""
    tensors: dict[str, Tensor] = {}
    for index, (name, value) in enumerate(values.items()):
        tensors[f"{index}.master"] = value
        tensors[f"{index}.step"] = torch.tensor(float(moments.steps))
        tensors[f"{index}.exp_avg"] = moments.first[name]
        tensors[f"{index}.exp_avg_sq"] = moments.second[name]
    return tensors


def _moments(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Moments:
    """The reverse of `_optimizer_tensors`."""
    return Moments(
        int(tensors["0.step"]),
        {name: tensors[f"{index}.exp_avg"] for index, name in enumerate(names)},
        {name: tensors[f"{index}.exp_avg_sq"] for index, name in enumerate(names)},
    )
