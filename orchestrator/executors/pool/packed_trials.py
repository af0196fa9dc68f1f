"""Many trials on one frozen base, stepped together: each learning generator is answered in turn.

A *slot* holds one trial: its adapter in a pack (`PackedModel`), its retention, its place in its own
sequence. A tick runs either one optimiser step of every training slot (`LearningPasses`) or the
pending evaluations (`ScoringPasses`), whichever more slots wait for; a step, where as many wait for
either. Trials that are a few steps apart come together that way, and then have rows of the same
length. What a trial computes is what it would compute alone: up to rounding, or to the
last bit where passes are `invariant`.

A failure stays with its slot: whatever a trial's own parts raise ends that trial, and the others go
on. A pass that does not fit into memory is tried again in halves, by slots and then by rows, and
later passes are no larger; a pass that fails otherwise is taken apart until it is known whose rows
made it fail.

Several workers (`engines.workers`) can hold the same slots, each with the whole base, or where that
is too large with a shard of it (`engines.sharded_base`). The rows of every pass are sharded across
them, and the adapters' gradients are summed once a tick; all else each of them computes for itself,
and alike. What fails in a pass on one has failed on all. With a sharded base one failed pass ends
the whole member, because the others wait within the pass: trials go on from their last reports once
all workers have restarted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.engines.scored_model import ScoredModel
from orchestrator.engines.sharded_base import ShardedBase
from orchestrator.engines.workers import ALONE, Workers
from orchestrator.executors.pool.bare_base import BareBase
from orchestrator.executors.pool.learning_passes import LearningPasses
from orchestrator.executors.pool.scoring_passes import ScoringPasses
from orchestrator.executors.pool.shared_passes import SharedPasses
from orchestrator.executors.pool.slot_answers import SlotAnswers
from orchestrator.executors.pool.slot_engine import SlotEngine
from orchestrator.executors.pool.slot_memory import check_packable, row_tokens, slot_bytes
from orchestrator.executors.pool.slots import Ended, Slot, SlotTable, charged
from orchestrator.loop.learn import learn_sequence
from orchestrator.loop.requests import Taken, TrainStep
from orchestrator.loop.sequence_run import SequenceRun
from orchestrator.loop.task_sequence import TaskSequence
from orchestrator.loop.trial_state import TrialState, fresh_state, read_state
from orchestrator.loop.work_meter import Progress, WorkMeter
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.retention_settings import retention_options

PATIENCE = 8
"""Ticks that a slot waits at most until others want to have something scored as well."""


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
        workers: Workers = ALONE,
        sharded: ShardedBase | None = None,
        invariant_tokens: int | None = None,
    ) -> None:
        """Take a base.

        Args:
            base: A frozen causal language model without an adapter.
            target_modules: The layers of all adapters; None: the family's default.
            capacity: Most trials at a time.
            batch_tokens: Padded tokens of one pass, on each worker.
            tokenizer: Needed where a task is scored on written text.
            workers: The workers that hold the same trials. Each must make the same calls in the
                same order: `tick`, `join`, `drop` and `save_adapter` are collectives.
            sharded: The base where it is sharded across them (ZeRO stage 3).
            invariant_tokens: Compute to the last bit what each trial would compute alone, with
                `batch_tokens` as they were before failures have left less; None: up to rounding.
        """
        self._passes = SharedPasses(
            base, target_modules, capacity=capacity, tokenizer=tokenizer, workers=workers,
            sharded=sharded, invariant=invariant_tokens is not None,
        )  # fmt: skip
        self._pack = self._passes.pack
        self._workers = workers
        self._learning = LearningPasses(self._passes, batch_tokens)
        self._scoring = ScoringPasses(self._passes, batch_tokens, invariant_tokens)
        self._slots = SlotTable(self._pack, capacity)
        self._answers = SlotAnswers(self._passes, self._scoring, self._slots)
        self._waited = 0
        """Ticks since the first of those that wait now has asked to have something scored."""

    # ------------------------------------------------------------------ what it holds

    @property
    def scored(self) -> ScoredModel:
        """The base as it is called."""
        return self._passes.scored

    @property
    def pass_tokens(self) -> tuple[int, ...]:
        """Padded tokens that passes may have: what was asked for, or what failures have left."""
        sizes = (self._learning.size, self._scoring.reading, self._scoring.writing)
        return tuple(size.tokens for size in sizes)

    @property
    def largest(self) -> int:
        """Padded tokens of the largest pass of the last tick in which something was learnt."""
        return self._learning.largest

    @property
    def free(self) -> int:
        """How many more trials there is room for."""
        return self._slots.free

    @property
    def names(self) -> list[str]:
        """The trials that are learning, in the order of their slots."""
        return self._slots.names

    def bare_base(self) -> BareBase:
        """The base without any adapter, as an engine; trials wait while it computes."""
        return BareBase(self._scoring)

    def bytes_of(self, experiment: Experiment) -> int:
        """How much more memory the pack will hold once a trial has joined; see `slot_bytes`."""
        return slot_bytes(self._pack, experiment)

    def tokens_with(self, experiment: Experiment, sequence: TaskSequence) -> int:
        """Padded tokens of learning passes on each worker, once a trial has joined."""
        own = row_tokens(experiment, sequence)
        together = own + sum(slot.tokens for slot in self._slots)
        return min(self._workers.max_rows(together), self._learning.size.tokens)

    # ------------------------------------------------------------------ joining and leaving

    def join(
        self,
        name: str,
        experiment: Experiment,
        sequence: TaskSequence,
        on_report: Callable[[StageReport, AccuracyMatrix], None],
        snapshot: Path | None = None,
        take_over: Callable[[int], Taken | None] = lambda _: None,
    ) -> list[Ended]:
        """Let a trial begin, or go on from where it was saved.

        Args:
            name: The trial's name.
            experiment: Its experiment, overrides applied.
            sequence: What it learns.
            on_report: Receives each report; `save`, `save_adapter` and `drop` may be called within.
            snapshot: A folder that `save` wrote, or a `PlainEngine` beside `trial.json`; None: the
                trial begins.
            take_over: Lets its engine go on from what another trial has learnt of a task that
                begins; all workers call.

        Returns:
            The trial itself if it has ended already, else nothing.

        Raises:
            ValueError: If there is no room, or the trial cannot be packed, or the snapshot is not
                one of this trial.
            OSError: If the snapshot cannot be read.
        """
        if not self.free:
            raise ValueError(
                f"There is no free slot for {name!r}: {len(self.names)} trials learn now."
            )
        check_packable(name, experiment, sequence)
        state = fresh_state(sequence) if snapshot is None else read_state(snapshot)
        spec, method = experiment.training, experiment.method
        options = adapter_options(method.adapter)
        with self._slots.reserved() as number, self._passes.readable():
            self._pack.join(number, method.adapter.kind, options, seed=spec.seed)
        settings = retention_options(method.retention, spec.seed)
        retention = RETENTIONS[method.retention.kind].build(settings)
        learning = learn_sequence(sequence, retention, state.matrix, state.start)
        slot = Slot(
            number,
            name,
            SequenceRun(learning, WorkMeter(sequence, state.matrix, state.start), state.start),
            SlotEngine(self._passes, number, spec, retention),
            spec,
            on_report,
            take_over,
            state,
            row_tokens(experiment, sequence),
            seconds=state.start.seconds,
        )
        self._slots.add(slot)
        try:
            slot.engine.bind()
            if snapshot is not None:
                slot.engine.load(snapshot, inside=state.start.step > 0)
        except BaseException:
            self._slots.end(slot, None)
            raise
        return self._answers.advance(slot, None)

    def unhook(self) -> None:
        """Give the base its own forward back; the pack must be empty, and no trial can join."""
        self._pack.unhook()

    def drop(self, name: str) -> None:
        """Forget a trial, whatever it has learnt: its slot is free.

        Args:
            name: A trial that is learning.

        Raises:
            ValueError: No such trial is learning.
        """
        slot = self._slots.named(name)
        slot.run.close()
        self._slots.end(slot, None)

    # ------------------------------------------------------------------ one trial of them

    def state(self, name: str) -> TrialState:
        """Where a trial is: its reports, up to and including the one being made."""
        return self._slots.named(name).state

    def between_steps(self, name: str) -> bool:
        """Whether a trial is about to take a step, so that nothing of it is half done."""
        return isinstance(self._slots.named(name).run.request, TrainStep)

    def paused(self, name: str) -> TrialState | None:
        """Where a trial could go on if it were saved now.

        Args:
            name: A trial that is learning.

        Returns:
            Its state within a task; None where its last report is as far as it is.
        """
        slot = self._slots.named(name)
        start = slot.run.pause(round(slot.seconds, 3))
        return None if start is None else replace(slot.state, start=start)

    def progress(self, name: str) -> Progress:
        """How far a trial is, by estimated work.

        Args:
            name: A trial that is learning.

        Returns:
            As of its last step or evaluation.

        Raises:
            ValueError: No such trial is learning.
        """
        under_way = self._slots.named(name).run
        trains = isinstance(under_way.request, TrainStep)
        return under_way.meter.reading("training" if trains else "evaluating")

    def engine(self, name: str) -> SlotEngine:
        """What computes a trial, which writes what it needs to go on from the report being made.

        Args:
            name: A trial that is learning.

        Returns:
            The engine; of several workers the first one writes, as all know the same.

        Raises:
            ValueError: No such trial is learning.
        """
        return self._slots.named(name).engine

    # ------------------------------------------------------------------ a tick

    def tick(self) -> list[Ended]:
        """Let the trials that want to learn go on by one step, or the others by one answer.

        Returns:
            The trials that ended.

        Raises:
            WorkersError: There are several workers, and a pass or a sum has failed on one.
        """
        learners = [slot for slot in self._slots if isinstance(slot.run.request, TrainStep)]
        readers = [slot for slot in self._slots if not isinstance(slot.run.request, TrainStep)]
        ended: list[Ended] = []
        # As many either way: waiting costs no pass, and two that are a step apart come together.
        waiting = len(readers) <= len(learners) and self._waited < PATIENCE
        if waiting or not readers:
            self._waited += bool(readers)
            losses = self._learning.learn(learners)
            for slot in filter(self._slots.holds, learners):
                with charged(slot):
                    ended += self._answers.learnt(slot, losses[slot.number])
            return ended
        self._waited = 0
        values = self._scoring.read(readers)
        for slot in filter(self._slots.holds, readers):
            with charged(slot):
                ended += self._answers.scored(slot, values[slot.number])
        return ended
