"""The untouched base of a pool's member: an engine over a pack's passes, and row 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from curlora.packing.pack import BARE
from orchestrator.data.items import Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.scored_model import check_logits
from orchestrator.executors.pool.scoring_passes import ScoringPasses
from orchestrator.loop.answer import run
from orchestrator.loop.learn import measure_base
from orchestrator.loop.task_sequence import TaskSequence
from orchestrator.loop.work_meter import Progress
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.task_kinds import GenerationTask


class BareBase:
    """The untouched base as the engine that measures row 0; all workers compute a shard."""

    def __init__(self, passes: ScoringPasses) -> None:
        """Take the base of a pack.

        Args:
            passes: Whose; the pack may hold trials, which wait meanwhile.
        """
        self._passes = passes
        self.scored = passes.scored

    def log_probabilities(self, rows: Sequence[Scored]) -> list[list[float]]:
        """The log-probability of every pick of every row."""
        found, failures = self._passes.log_probabilities(rows, [BARE] * len(rows))
        if failures:  # all workers know of it
            raise ValueError(f"The base cannot be measured: {failures[BARE].reason}.")
        return found

    def hidden_states(self, rows: Sequence[Scored]) -> Tensor:
        """The last hidden state at the first pick of every row: float32 (rows, hidden)."""
        return self._passes.hidden_states(rows)

    def write(self, prompts: Sequence[Tokens], task: GenerationTask) -> list[str | None]:
        """What the model writes after each prompt."""
        return self._passes.write(BARE, prompts, task)


def measure_bare_base(
    engine: Any,
    sequence: TaskSequence,
    *,
    on_report: Callable[[StageReport, AccuracyMatrix], None],
    on_progress: Callable[[Progress], None],
) -> None:
    """Measure row 0.

    Args:
        engine: A `BareBase`, or a `PlainEngine` around the base.
        sequence: The tasks and probes.
        on_report: Receives the report.
        on_progress: Called after every evaluation.

    Raises:
        ModelError: If the base transforms its logits in a way that is not known.
    """
    config = engine.scored.model.config
    check_logits(engine.scored, config.get_text_config().vocab_size)
    run(
        measure_base(sequence),
        engine,
        sequence=sequence,
        matrix=AccuracyMatrix.empty([task.name for task in sequence.tasks]),
        start=None,
        on_report=on_report,
        on_progress=on_progress,
    )
