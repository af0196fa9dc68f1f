"""The base of a pool's member, and the pack around those of its layers that trials adapt."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from curlora.packing.row_attention import takes_rows
from orchestrator.base.loading import load_base, load_tokenizer, partitioned
from orchestrator.data.prepared import PreparedData
from orchestrator.engines.plain import PlainEngine
from orchestrator.engines.scored_model import check_logits
from orchestrator.engines.sharded_base import ShardedBase, zero3_config
from orchestrator.engines.workers import Workers
from orchestrator.executors.pool.packed_trials import PackedTrials
from orchestrator.loop.answer import run
from orchestrator.loop.learn import measure_base
from orchestrator.loop.task_sequence import TaskSequence
from orchestrator.loop.work_meter import Progress
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.sections import default_batch_tokens
from orchestrator.spec.task_kinds import GenerationTask

_log = logging.getLogger(__name__)


class MemberBase:
    """A base that is loaded once, and the pack on it."""

    def __init__(
        self, experiment: Experiment, data: PreparedData, workers: Workers, *, halvings: int = 0
    ) -> None:
        """Load the base; a collective where it is sharded.

        Args:
            experiment: The sweep's.
            data: Every task and probe.
            workers: The member's workers, each of which loads it.
            halvings: How often passes are to be half as large as the experiment says.
        """
        import torch

        resources, training = experiment.resources, experiment.training
        if training.batch_invariant is True and resources.gpus_per_worker:
            # Read by cuBLAS when it is first used.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.device: Any = "cpu"
        if resources.gpus_per_worker:
            self.device = torch.device("cuda", torch.cuda.current_device())
        zero3 = None if workers.alone else zero3_config(training)
        with partitioned(zero3):
            self._base: Any = load_base(experiment.model, training.precision, self.device)
        self._sharded = ShardedBase(self._base, zero3) if zero3 is not None else None
        writes = any(isinstance(task.spec, GenerationTask) for task in data.tasks.values())
        self._tokenizer = load_tokenizer(experiment.model) if writes else None
        tokens = experiment.data.batch_tokens or default_batch_tokens(
            on_gpu=resources.gpus_per_worker > 0, packed=True
        )
        self._asked_tokens = tokens
        self.batch_tokens = max(1, tokens >> halvings)
        """Padded tokens of a pass at most, on each worker."""
        self.capacity = resources.slots
        """Most trials at a time."""
        self._workers = workers
        self._invariant = training.batch_invariant is True and self._goes_row_by_row()
        self._targets: Any = None
        self.pack: PackedTrials | None = None
        """The pack that there is; None before the first trial."""

    def _goes_row_by_row(self) -> bool:
        """Whether the base can be computed so that rows do not depend on one another."""
        if takes_rows(self._base):
            return True
        _log.warning(
            "%s does not call its attention by name, so that it cannot go over each row by itself: "
            "what a trial computes depends, within rounding, on the trials that share its passes.",
            type(self._base).__name__,
        )
        return False

    def pack_for(self, experiment: Experiment) -> PackedTrials | None:
        """The pack of a trial's layers; None while trials of other layers hold the base."""
        targets = getattr(experiment.method.adapter, "target_modules", None)
        if self.pack is not None and self._targets != targets:
            if self.pack.names:
                return None
            self.pack.unhook()
            self.pack = None
        if self.pack is None:
            self._targets = targets
            self.pack = PackedTrials(
                self._base,
                list(targets) if isinstance(targets, tuple) else targets,
                capacity=self.capacity,
                batch_tokens=self.batch_tokens,
                tokenizer=self._tokenizer,
                workers=self._workers,
                sharded=self._sharded,
                invariant_tokens=self._asked_tokens if self._invariant else None,
            )
        return self.pack

    def _bare(self, experiment: Experiment) -> Any:
        """The engine that computes row 0."""
        if self._workers.alone and not self._invariant:
            return PlainEngine(
                self._base, experiment.training, batch_tokens=self.batch_tokens,
                tokenizer=self._tokenizer,
            )  # fmt: skip
        pack = self.pack or self.pack_for(experiment)
        assert pack is not None  # only trials that have begun can be in the way of another pack
        return pack.bare_base()

    def measure(
        self,
        experiment: Experiment,
        sequence: TaskSequence,
        *,
        on_report: Callable[[StageReport, AccuracyMatrix], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        """Measure row 0 on the bare base; trials wait meanwhile.

        Args:
            experiment: The base trial's.
            sequence: Its tasks and probes.
            on_report: Receives the report.
            on_progress: Called after every evaluation.

        Raises:
            ModelError: If the base transforms its logits in a way that is not known.
        """
        engine = self._bare(experiment)
        check_logits(engine.scored, self._base.config.get_text_config().vocab_size)
        run(
            measure_base(sequence),
            engine,
            sequence=sequence,
            matrix=AccuracyMatrix.empty([task.name for task in sequence.tasks]),
            start=None,
            on_report=on_report,
            on_progress=on_progress,
        )
