"""The untouched base of a pack as an engine: it measures row 0."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from curlora.packing.pack import BARE
from orchestrator.data.items import Tokens
from orchestrator.data.model_inputs import Scored
from orchestrator.executors.pool.scoring_passes import ScoringPasses
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
