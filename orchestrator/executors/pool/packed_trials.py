"""Many trials on one frozen base, stepped together: each learning generator is answered in turn.

A *slot* holds one trial: its adapter in a pack (`PackedModel`), its retention, its place in its
own sequence. In a tick either each slot that wants to learn takes one optimiser step, all of them
in as few passes of the base as their lengths allow, or all that the others want to have scored
shares forward passes: what more slots want. Trials that are a few steps apart come together that
way, and then have rows of the same length. What a trial computes is what it would compute alone,
up to rounding.

A failure stays with its slot: whatever a trial's own parts raise ends that trial, and the others go
on. A pass that does not fit into memory is tried again in halves, by slots and then by rows, and
later passes are no larger; a pass that fails otherwise is taken apart until it is known whose rows
made it fail.

Several workers (`engines.workers`) can hold the same slots, each with the whole base, or where that
is too large with a part of it (`engines.sharded_base`). The rows of every pass are
dealt out among them, and the adapters' gradients are summed once a tick; all else each of them
computes for itself, and alike. What fails in a pass on one has failed on all. Only over a parted
base that ends all of them, because the others wait within the pass: trials go on from their last
reports once all have started anew.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import curlora
from curlora.curvature.derivatives import observe
from curlora.curvature.layers import adapted_layers
from curlora.curvature.observation import Observation
from curlora.packing.pack import PackedModel
from curlora.retention.protocol import Retention
from curlora_kinds.adapters.table import adapter_kind
from curlora_kinds.retentions.sizes import state_size
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.data.items import Example, Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.checkpoints import (
    RETENTION_FILE,
    WEIGHTS_FILE,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from orchestrator.engines.generation import prompt_batches, write_batch
from orchestrator.engines.optimizer import reach, schedule_factor
from orchestrator.engines.row_batches import FULL_PASS, bucketed, first_pick, padded, scored_example
from orchestrator.engines.scored_model import ScoredModel, hidden_size
from orchestrator.engines.sharded_base import ShardedBase
from orchestrator.engines.workers import ALONE, RankError, Ranks
from orchestrator.executors.pool.admission import packing_refuses
from orchestrator.executors.pool.failures import (
    Failure,
    Result,
    SharedFailureError,
    attempt,
    too_long,
)
from orchestrator.executors.pool.passes import PASS_TOKENS, PassSize, cut_into_passes, row_tokens
from orchestrator.executors.pool.scoring import KnownAnswers, asked_rows
from orchestrator.executors.pool.slots import Ended, Slot, charged, moments_of, optimizer_tensors
from orchestrator.loop.answer import check_loss, six_digits
from orchestrator.loop.learn import learn_sequence
from orchestrator.loop.requests import (
    BeginSequence,
    BeginTask,
    EndTask,
    FitHeadOnly,
    HeldOutLoss,
    Report,
    TrainStep,
)
from orchestrator.loop.scoring import score
from orchestrator.loop.task_sequence import TaskSequence
from orchestrator.loop.trial_state import TrialState, fresh_state, read_state, write_state
from orchestrator.loop.work_meter import Progress, WorkMeter
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.retention_settings import retention_options
from orchestrator.spec.task_kinds import GenerationTask

PATIENCE = 8
"""Ticks that a slot waits at most until others want to have something scored as well."""
_OPTIMIZER_FILE = "optimizer-rank0.safetensors"
_ENGINE_FILE = "engine.json"


_Group = Sequence[tuple[Slot, list[Scored]]]


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
        ranks: Ranks = ALONE,
        parted: ShardedBase | None = None,
    ) -> None:
        """Take a base.

        Args:
            base: A frozen causal language model without an adapter.
            target_modules: The layers of all adapters; None: the family's default.
            capacity: Most trials at a time.
            batch_tokens: Padded tokens of one pass, on each worker.
            tokenizer: Needed where a task is scored on written text.
            ranks: The workers that hold the same trials. Each must make the same calls in the same
                order: `tick`, `join`, `drop` and `save_adapter` are collectives.
            parted: Where each of them holds only a part of the base.
        """
        self._base = base
        self._parted = parted
        self._scored = ScoredModel(base).eval() if parted is None else parted.scored
        self._pack = PackedModel(base, target_modules, capacity=capacity)
        self._device = next(base.parameters()).device
        self._learning, self._reading, self._writing = (PassSize(batch_tokens) for _ in range(3))
        self._tokenizer = tokenizer
        self._ranks = ranks
        self._slots: dict[int, Slot] = {}
        self._free = list(range(capacity))
        self.largest = 0
        """Padded tokens of the largest pass of the last tick in which something was learnt."""
        self._waited = 0
        """Ticks since the first of those that wait now has asked to have something scored."""

    @property
    def scored(self) -> ScoredModel:
        """The base as it is called."""
        return self._scored

    @property
    def pass_tokens(self) -> tuple[int, ...]:
        """Padded tokens that passes may have: what was asked for, or what failures have left."""
        return (self._learning.tokens, self._reading.tokens, self._writing.tokens)

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
            on_report: Told of each report; `save`, `save_adapter` and `drop` may be called within.
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
            raise ValueError(
                f"There is no free slot for {name!r}: {len(self._slots)} trials learn now."
            )
        self._check(name, experiment, sequence)
        state = fresh_state(sequence) if snapshot is None else read_state(snapshot)
        number = self._free.pop(0)
        spec, method = experiment.training, experiment.method
        options = adapter_options(method.adapter)
        try:
            with self._readable():
                self._pack.join(number, method.adapter.kind, options, seed=spec.seed)
        except BaseException:
            self._free.insert(0, number)
            raise
        retention = RETENTIONS[method.retention.kind].build(
            retention_options(method.retention, spec.seed)
        )
        learning = learn_sequence(sequence, retention, state.matrix, state.start)
        slot = Slot(
            number,
            name,
            learning,
            spec,
            retention,
            on_report,
            state,
            WorkMeter(sequence, state.matrix, state.start),
            row_tokens(experiment, sequence),
            seconds=state.start.seconds,
        )
        self._slots[number] = slot
        if type(retention).bind is not Retention.bind:  # most kinds do not ask
            solo = self._solo(number)
            retention.bind(adapted_layers(solo, curlora.trainable_parameters(solo)))
        if snapshot is not None:
            try:
                self._restore(slot, snapshot)
            except BaseException:
                self._end(slot, None)
                raise
        return self._advance(slot, None)

    def _restore(self, slot: Slot, snapshot: Path) -> None:
        self._pack.load_state(slot.number, read_tensors(snapshot / WEIGHTS_FILE))
        if (snapshot / RETENTION_FILE).is_file():
            carried = read_tensors(snapshot / RETENTION_FILE)
            slot.retention.load_state_dict({n: t.to(self._device) for n, t in carried.items()})
        if slot.state.start.step > 0:
            # Inside a task, so its beginning is not asked for again.
            slot.steps = int(read_json(snapshot / _ENGINE_FILE)["steps"])
            tensors = read_tensors(snapshot / _OPTIMIZER_FILE)
            names = list(self._pack.state(slot.number))
            self._pack.load_moments(slot.number, moments_of(tensors, names))

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

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Within it the pack can read weights of the base."""
        if self._parted is None:
            yield
            return
        with self._parted.readable():
            yield

    def _solo(self, number: int) -> Any:
        with self._readable():
            return self._pack.solo(number)

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
        """Let the trials that want to learn go on by one step, or the others by one answer.

        Returns:
            The trials that ended.

        Raises:
            RankError: There are several workers, and a pass or a sum over them has failed on one.
        """
        learners = [s for s in self._slots.values() if isinstance(s.request, TrainStep)]
        readers = [s for s in self._slots.values() if not isinstance(s.request, TrainStep)]
        ended: list[Ended] = []
        waiting = len(readers) < len(learners) and self._waited < PATIENCE
        if waiting or not readers:
            self._waited += bool(readers)
            losses = self._learn(learners)
            for slot in filter(self._is_here, learners):
                with charged(slot):
                    ended += self._learnt(slot, losses[slot.number])
            return ended
        self._waited = 0
        values = self._read(readers)
        for slot in filter(self._is_here, readers):
            with charged(slot):
                ended += self._scored_for(slot, values[slot.number])
        return ended

    def _attempt(self, work: Callable[[], Result]) -> Result | Failure:
        """Do what concerns one trial.

        Args:
            work: What to do.

        Returns:
            What it returned, or why it failed.

        Raises:
            RankError: Memory did not suffice, and there are other workers, where it may have.
        """
        found = attempt(work)
        if isinstance(found, Failure) and found.memory and not self._ranks.alone:
            raise RankError(f"worker {self._ranks.rank} is out of memory: {found.reason}")
        return found

    def _in_step(self, work: Callable[[], Result]) -> Result | Failure:
        """Do this worker's share of a pass.

        Args:
            work: What to do.

        Returns:
            What it returned, or the first worker's failure on whom it failed.

        Raises:
            RankError: It failed within a pass of a parted base, where other workers wait.
        """
        if self._ranks.alone:
            return attempt(work)
        if self._parted is not None:
            with self._ranks.together():
                return work()
        found = attempt(work)
        told = self._ranks.parts(found if isinstance(found, Failure) else None)
        return next((failure for failure in told if failure is not None), found)

    def _is_here(self, slot: Slot) -> bool:
        """Whether a slot has not been dropped, within a report of its own or of another."""
        return self._slots.get(slot.number) is slot

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
        """Write a trial's adapter, as `curlora.load_adapter` reads it; the first worker writes."""
        solo = self._solo(self._slot(name).number)
        if self._ranks.first:
            curlora.save_adapter(solo, folder)

    def state(self, name: str) -> TrialState:
        """Where a trial is: its reports, up to and including the one being made."""
        return self._slot(name).state

    def bytes_of(self, experiment: Experiment) -> int:
        """How much more memory the pack will hold once a trial has joined.

        Its numbers, gradients and moments, padded to the widest adapter of its kind (and the other
        ones to it, where it is the widest); the columns and rows of a selection that no other has;
        what its retention carries. Not what its rows take in a pass.

        Args:
            experiment: The trial's experiment, overrides applied.

        Returns:
            Bytes.

        Raises:
            ValueError: If the method cannot be packed.
        """
        adapter, retention = experiment.method.adapter, experiment.method.retention
        reason = packing_refuses(experiment.method)
        if reason is not None:
            raise ValueError(f"The trial cannot be packed: {reason}.")
        settings = adapter_options(adapter)
        layers = {name: (one.d_out, one.d_in) for name, one in self._pack.layers.items()}
        entry = adapter_kind(adapter.kind)
        carried = state_size(
            retention.kind,
            retention_options(retention, experiment.training.seed),
            adapter_kind=adapter.kind,
            r=int(settings["r"]),
            layers=layers,
            trained=entry.count_trained(entry.complete(settings), layers),
            tasks=len(experiment.tasks),
            tokens_per_example=0.0,
        )
        return self._pack.bytes_of(adapter.kind, settings) + carried.bytes

    def tokens_with(self, experiment: Experiment, sequence: TaskSequence) -> int:
        """How large learning passes may be once a trial has joined.

        Args:
            experiment: The trial's experiment, overrides applied.
            sequence: What it learns.

        Returns:
            Padded tokens on each worker.
        """
        own = row_tokens(experiment, sequence)
        together = own + sum(slot.tokens for slot in self._slots.values())
        return min(-(-together // self._ranks.world), self._learning.tokens)

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

        Of several workers the first one writes: all know the same.

        The folder is a checkpoint of `PlainEngine` (see `engines.base`) and `trial.json`.

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
        if not self._ranks.first:
            return
        values = self._pack.state(slot.number)
        write_tensors(folder / WEIGHTS_FILE, values)
        carried = slot.retention.state_dict()
        if carried:
            write_tensors(folder / RETENTION_FILE, carried)
        if inside:
            tensors = optimizer_tensors(self._pack.moments(slot.number), values)
            write_tensors(folder / _OPTIMIZER_FILE, tensors)
        write_json(folder / _ENGINE_FILE, {"steps": slot.steps, "world": 1})
        write_state(folder, slot.state)

    def _slot(self, name: str) -> Slot:
        for slot in self._slots.values():
            if slot.name == name:
                return slot
        raise ValueError(f"No trial {name!r} is learning here. There are: {self.names}.")

    # ------------------------------------------------------------------ asking the generators

    def _learnt(self, slot: Slot, loss: float | Failure) -> list[Ended]:
        if not isinstance(loss, Failure):
            noted = self._attempt(functools.partial(self._note_step, slot, loss))
            loss = noted if isinstance(noted, Failure) else loss
        if isinstance(loss, Failure):
            return [self._end(slot, None, loss)]
        return self._advance(slot, loss)

    def _note_step(self, slot: Slot, loss: float) -> None:
        step = slot.request.step
        check_loss(loss, step, slot.meter.task)
        slot.losses.append(six_digits(loss))
        rate = slot.spec.learning_rate * schedule_factor(slot.spec, step, slot.steps)
        slot.rates.append(six_digits(rate))
        slot.meter.train((*slot.request.examples, *slot.request.replayed), step, loss)
        after_step = slot.retention.after_step
        if getattr(after_step, "__func__", None) is not Retention.after_step:  # most do nothing
            after_step(self._pack.state(slot.number))

    def _scored_for(self, slot: Slot, values: list[list[float]] | Failure) -> list[Ended]:
        answer: Any = values
        if not isinstance(values, Failure):
            answer = self._attempt(functools.partial(self._scored_answer, slot, values))
        if isinstance(answer, Failure):
            return [self._end(slot, None, answer)]
        return self._advance(slot, answer)

    def _advance(self, slot: Slot, answer: Any) -> list[Ended]:
        """Give a generator its answer, and go on to what needs the base."""
        found = self._attempt(functools.partial(self._ask, slot, answer))
        if not self._is_here(slot) or found is None:
            return []
        if isinstance(found, Failure):
            return [self._end(slot, None, found)]
        return [self._end(slot, found)]

    def _ask(self, slot: Slot, answer: Any) -> AccuracyMatrix | None:
        """Go on until the base is needed (None), or the trial is done (its matrix)."""
        while True:
            try:
                slot.request = slot.learning.send(answer)
            except StopIteration as finished:
                return finished.value
            if not self._answered(slot) or not self._is_here(slot):
                return None
            answer = None

    def _answered(self, slot: Slot) -> bool:
        """Do what a request asks that needs no pass of the pack; whether that was all."""
        match slot.request:
            case BeginSequence(tasks=tasks, sources=sources):
                most = slot.retention.max_examples
                observed = [
                    self._observe(slot, s, f"source {i}", most) for i, s in enumerate(sources)
                ]
                slot.retention.begin_sequence(
                    self._pack.state(slot.number), tasks=tasks, observed=observed, total=self._total
                )
            case BeginTask(name=name, index=index, steps=steps, examples=examples):
                slot.steps = steps
                slot.meter.begin(name, index, steps)
                self._pack.begin(slot.number)
                looked_at = slot.retention.looks_at
                slot.retention.begin_task(
                    self._pack.state(slot.number),
                    index,
                    observed=self._observe(slot, examples, f"beginning {index}", looked_at),
                    total=self._total,
                    reach=reach(slot.spec, steps),
                )
            case EndTask(index=index, examples=examples):
                most = slot.retention.max_examples
                observed_now = self._observe(slot, examples, f"task {index}", most)
                slot.retention.end_task(
                    self._pack.state(slot.number), index, observed_now, self._total, len(examples)
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
                self._report(functools.partial(slot.on_report, whole, matrix))
            case FitHeadOnly():
                raise ValueError("Row 0 is measured on the bare base, not in a pack.")
            case _:
                return False
        return True

    def _report(self, tell: Callable[[], None]) -> None:
        """Make a report; that it failed on the first worker, who writes, is told to the others."""
        if self._ranks.alone:
            tell()
            return
        found = self._ranks.told(self._attempt(tell))
        if isinstance(found, Failure):
            raise SharedFailureError(found)

    def _end(
        self, slot: Slot, matrix: AccuracyMatrix | None, failure: Failure | None = None
    ) -> Ended:
        del self._slots[slot.number]
        self._pack.leave(slot.number)
        self._free.append(slot.number)
        if failure is None:
            return Ended(slot.name, matrix)
        return Ended(slot.name, None, failure.reason, failure.details)

    # ------------------------------------------------------------------ learning

    def _learn(self, learners: Sequence[Slot]) -> dict[int, float | Failure]:
        """One optimiser step of each; the mean loss per scored token, NaN where it has none."""
        began = time.monotonic()
        self.largest = 0
        rows: dict[int, list[Scored]] = {}
        losses: dict[int, float | Failure] = {}
        for slot in learners:
            found = self._attempt(functools.partial(self._rows, slot.request))
            if isinstance(found, Failure):
                losses[slot.number] = found
            else:
                rows[slot.number] = found
        ready = [slot for slot in learners if slot.number in rows]
        for group in self._groups(ready, rows):
            losses |= self._backward(group)
        losses |= self._summed(losses)
        for slot in [s for s in ready if not isinstance(losses[s.number], Failure)]:
            found = self._attempt(functools.partial(self._add_penalty, slot))
            if isinstance(found, Failure):
                losses[slot.number] = found
        going_on = [s for s in ready if not isinstance(losses[s.number], Failure)]
        norms = self._pack.step(
            {
                s.number: s.spec.learning_rate * schedule_factor(s.spec, s.request.step, s.steps)
                for s in going_on
            },
            weight_decay={s.number: s.spec.weight_decay for s in going_on},
            max_norm={s.number: s.spec.max_grad_norm or math.inf for s in going_on},
        )
        losses |= {number: math.nan for number, norm in norms.items() if not math.isfinite(norm)}
        self._charge(rows, began)
        return losses

    def _groups(
        self, learners: Sequence[Slot], rows: Mapping[int, list[Scored]]
    ) -> Iterator[_Group]:
        """Slots in passes that fit, cut where they differ so much that padding costs most."""
        longest = {n: max(len(row.tokens) for row in found) for n, found in rows.items()}
        # Slots of one kind stay neighbours, where their products are one.
        order = sorted(learners, key=lambda s: (-longest[s.number], s.number))
        sizes = [(len(rows[slot.number]), longest[slot.number]) for slot in order]
        each = PASS_TOKENS if self._device.type == "cpu" else FULL_PASS
        for first, last in cut_into_passes(sizes, self._ranks.most, self._learning.tokens, each):
            yield [(slot, rows[slot.number]) for slot in order[first:last]]

    @staticmethod
    def _rows(request: TrainStep) -> list[Scored]:
        return [scored_example(e) for e in (*request.examples, *request.replayed)]

    def _backward(self, group: _Group) -> dict[int, float | Failure]:
        """The losses of some slots, with their gradients in the pack."""
        longest = max(len(row.tokens) for _, mine in group for row in mine)
        count = sum(len(mine) for _, mine in group)
        if len(group) == 1:
            count = min(count, self._learning.rows(longest) * self._ranks.world)
        found = self._in_step(functools.partial(self._passes, group, count))
        if not isinstance(found, Failure):
            return dict(found)
        for slot, _ in group:
            self._pack.zero_gradients(slot.number)
        most = self._ranks.most(count)
        if found.memory:
            self._learning.failed(most, longest)
            self._make_room()
        if len(group) > 1:
            half = len(group) // 2
            return self._backward(group[:half]) | self._backward(group[half:])
        if found.memory and most > 1:
            return self._backward(group)
        return {group[0][0].number: too_long(found, longest)}

    def _passes(self, group: _Group, count: int) -> dict[int, float]:
        """All rows of some slots forward and backward, so many at a time."""
        scored = {slot.number: sum(len(row.picks) for row in mine) for slot, mine in group}
        rows = [(slot.number, row) for slot, mine in group for row in mine]
        losses = dict.fromkeys(scored, 0.0)
        for start in range(0, len(rows), count):
            own, counts = self._ranks.share(rows[start : start + count])
            for number, loss in self._pass(own, scored, counts=counts).items():
                losses[number] += loss
        return losses

    def _pass(
        self, rows: Sequence[tuple[int, Scored]], scored: Mapping[int, int], *, counts: bool
    ) -> dict[int, float]:
        """Some rows forward and backward: each slot's share of its mean loss, if they count."""
        self.largest = max(self.largest, len(rows) * max(len(row.tokens) for _, row in rows))
        numbers = list(dict.fromkeys(number for number, _ in rows))
        owners = [numbers.index(number) for number, row in rows for _ in row.picks]
        with self._pack.rows([number for number, _ in rows]):
            found = self._scored(*padded([row for _, row in rows], self._device))
        owner = torch.tensor(owners, device=self._device)
        sums = found.new_zeros(len(numbers)).index_add(0, owner, -found)
        over = [scored[number] for number in numbers]
        losses = sums / torch.tensor(over, dtype=sums.dtype, device=self._device) * float(counts)
        losses.sum().backward()
        if self._parted is not None:
            self._parted.release()
        return dict(zip(numbers, losses.tolist(), strict=True))

    def _summed(self, losses: Mapping[int, float | Failure]) -> dict[int, float | Failure]:
        """Sum losses and gradients over the workers, once a tick."""
        found = {n: loss for n, loss in losses.items() if not isinstance(loss, Failure)}
        if self._ranks.alone or not found:
            return {**found}
        whole = torch.tensor(list(found.values()), dtype=torch.float64, device=self._device)
        self._ranks.sum([whole, *self._pack.gradient_matrices()])
        return dict(zip(found, whole.tolist(), strict=True))

    def _total(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over all workers, of what a retention has seen."""
        if self._ranks.alone:
            return statistics
        summed = {name: tensor.to(self._device).clone() for name, tensor in statistics.items()}
        self._ranks.sum(list(summed.values()))
        return summed

    def _make_room(self) -> None:
        """Give back what the allocator has kept of a pass that failed."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _add_penalty(self, slot: Slot) -> None:
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
        self, slot: Slot, examples: Sequence[Example], name: str, most: int
    ) -> Iterator[Observation]:
        """The derivatives that a retention asks for, of its trial's adapter alone; a share each."""
        count = min(most, len(examples))
        if not slot.retention.observes or not count:
            return
        chosen = random.Random(f"{slot.spec.seed}/{name}").sample(list(examples), count)
        mine = chosen[self._ranks.rank :: self._ranks.world]
        # Where the base is parted, nobody may run one example fewer than the others.
        padding = [chosen[-1]] * (self._ranks.most(count) - len(mine))
        derivatives = self._derivatives
        if self._parted is not None and slot.retention.observes == {"gradients"}:
            derivatives = self._gradients
        for number, observation in enumerate(derivatives(slot, [*mine, *padding])):
            if number < len(mine):
                yield replace(observation, scored=len(scored_example(mine[number]).picks))

    def _derivatives(self, slot: Slot, examples: Sequence[Example]) -> Iterator[Observation]:
        """Whatever derivatives, of a model of the slot's own."""
        solo: Any = self._solo(slot.number)
        scored = ScoredModel(solo).eval()
        params = curlora.trainable_parameters(solo)

        def log_probability(example: Example) -> Tensor:
            return scored(*padded([scored_example(example)], self._device)).sum()

        what = slot.retention.observes
        # What it refuses it refuses on every worker; in a pass of a parted base nothing may be.
        list(observe(solo, log_probability, params, [], what))
        found = observe(solo, log_probability, params, examples, what)
        for _ in examples:
            observation = self._observed(functools.partial(next, found))
            if self._parted is not None:
                self._parted.release_all()
            yield observation

    def _gradients(self, slot: Slot, examples: Sequence[Example]) -> Iterator[Observation]:
        """Gradients only, of the pack itself: a DoRA of its own reads weights that are parted."""
        for example in examples:
            row = (slot.number, scored_example(example))
            # Minus the loss, and not divided by the number of tokens.
            work = functools.partial(self._pass, [row], {slot.number: -1}, counts=True)
            self._observed(work)
            found = self._pack.gradients(slot.number)
            self._pack.zero_gradients(slot.number)
            yield Observation(gradients=found)

    def _observed(self, work: Callable[[], Result]) -> Result:
        found = self._in_step(work)
        if isinstance(found, Failure):
            raise SharedFailureError(found)
        return found

    # ------------------------------------------------------------------ scoring

    def _read(self, readers: Sequence[Slot]) -> dict[int, list[list[float]] | Failure]:
        """What each of some slots wants to have scored, in shared forward passes."""
        began = time.monotonic()
        wanted: dict[int, list[Scored]] = {}
        values: dict[int, list[list[float]] | Failure] = {}
        for slot in readers:
            rows = attempt(functools.partial(asked_rows, slot.request))
            if isinstance(rows, Failure):
                values[slot.number] = rows
            else:
                wanted[slot.number] = rows
        owners = [number for number, rows in wanted.items() for _ in rows]
        everything = [row for rows in wanted.values() for row in rows]
        found, failures = self.log_probabilities(everything, owners)
        by_slot: dict[int, list[list[float]]] = {number: [] for number in wanted}
        for number, one in zip(owners, found, strict=True):
            by_slot[number].append(one)
        self._charge(wanted, began)
        return values | by_slot | failures

    def _scored_answer(self, slot: Slot, values: list[list[float]]) -> Any:
        request = slot.request
        if isinstance(request, HeldOutLoss):
            flat = [value for row in values for value in row]
            return -sum(flat) / len(flat)
        items = request.task.validation[: request.limit]
        answer = score(
            items,
            request.task.spec,
            KnownAnswers(values, functools.partial(self.write, slot.number)),
        )
        slot.meter.evaluate(request.task, len(items))
        return answer

    def log_probabilities(
        self, rows: Sequence[Scored], owners: Sequence[int]
    ) -> tuple[list[list[float]], dict[int, Failure]]:
        """The log-probability of every pick of every row; a collective.

        Args:
            rows: All of them, on every worker.
            owners: The slot of each, or `curlora.packing.pack.BARE`.

        Returns:
            By row, in nats; and of which slots some could not be computed, and why.

        Raises:
            RankError: There are several workers, and a pass over a parted base has failed on one.
        """
        result: list[list[float]] = [[] for _ in rows]
        failures: dict[int, Failure] = {}
        waiting = bucketed(rows, self._reading.tokens * self._ranks.world)
        while waiting:
            # Rows of a slot are neighbours.
            batch = sorted(waiting.pop(0), key=lambda i: owners[i])
            batch = [i for i in batch if owners[i] not in failures]
            if not batch:
                continue
            own, counts = self._ranks.share(batch)
            chosen = [rows[i] for i in own]
            found = self._in_step(functools.partial(self._score, chosen, [owners[i] for i in own]))
            if not isinstance(found, Failure):
                for index, values in zip(own, found, strict=True) if counts else ():
                    result[index] = values
                continue
            longest = max(len(rows[i].tokens) for i in batch)
            most = self._ranks.most(len(batch))
            if found.memory:
                self._reading.failed(most, longest)
                self._make_room()
            if len(batch) == 1:
                failures[owners[batch[0]]] = too_long(found, longest)
            elif found.memory and most > 1:
                left = [i for one in (batch, *waiting) for i in one]
                tokens = self._reading.tokens * self._ranks.world
                again = bucketed([rows[i] for i in left], tokens)
                waiting = [[left[place] for place in one] for one in again]
            else:
                half = len(batch) // 2
                waiting = [batch[:half], batch[half:], *waiting]
        return self._gathered(result, [len(row.picks) for row in rows]), failures

    def _gathered(self, mine: list[list[float]], sizes: Sequence[int]) -> list[list[float]]:
        """The values of all rows, of which each worker has computed some."""
        if self._ranks.alone:
            return mine
        flat = [value for one, n in zip(mine, sizes, strict=True) for value in one or [0.0] * n]
        whole = torch.tensor(flat, dtype=torch.float64, device=self._device)
        self._ranks.sum([whole] if flat else [])  # no rows where texts are written
        values = iter(whole.tolist())
        return [list(itertools.islice(values, n)) for n in sizes]

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state of the bare base at the first pick of every row; a collective.

        Args:
            rows: Each with a pick at least.

        Returns:
            float32 (rows, hidden), on the CPU.
        """
        whole = torch.zeros((len(rows), hidden_size(self._base)), device=self._device)
        with self._ranks.together(), torch.no_grad():
            for batch in bucketed(rows, self._reading.tokens * self._ranks.world):
                own, counts = self._ranks.share(batch)
                input_ids, places, _ = padded([first_pick(rows[i]) for i in own], self._device)
                found = self._scored(input_ids, places, None)
                if counts:
                    whole[own] = found
        self._ranks.sum([whole])
        return whole.cpu()

    def _score(self, rows: Sequence[Scored], owners: Sequence[int]) -> list[list[float]]:
        """The log-probabilities of some rows, in one pass."""
        with torch.no_grad(), self._pack.rows(owners):
            values = iter(self._scored(*padded(rows, self._device)).tolist())
        return [list(itertools.islice(values, len(row.picks))) for row in rows]

    def write(
        self, number: int, prompts: Sequence[Tokens], task: GenerationTask
    ) -> list[str | None]:
        """What the model of one slot writes after each prompt; a collective."""
        mine: dict[int, str | None] = {}
        waiting = prompt_batches(prompts, task, self._writing.tokens * self._ranks.world)
        while waiting:
            batch = waiting.pop(0)
            own, counts = self._ranks.share(batch)
            chosen = [prompts[i] for i in own]
            found = self._in_step(functools.partial(self._written, number, chosen, task))
            if not isinstance(found, Failure):
                mine |= dict(zip(own, found, strict=True)) if counts else {}
                continue
            if not found.memory or len(batch) == 1:
                raise SharedFailureError(found)
            self._make_room()
            self._writing.tokens = max(1, self._writing.tokens // 2)
            half = len(batch) // 2
            waiting = [batch[:half], batch[half:], *waiting]
        whole = {index: text for part in self._ranks.parts(mine) for index, text in part.items()}
        return [whole[index] for index in range(len(prompts))]

    def _written(
        self, number: int, prompts: Sequence[Tokens], task: GenerationTask
    ) -> list[str | None]:
        """The texts of one batch."""
        synced = self._parted is not None
        with self._pack.rows([number] * len(prompts)):
            return write_batch(
                self._base, self._tokenizer, prompts, task, self._device, synced=synced
            )
