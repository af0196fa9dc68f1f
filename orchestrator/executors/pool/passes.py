"""How rows of several slots are cut into forward passes that fit into memory."""

from __future__ import annotations

from dataclasses import dataclass

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.loop.task_sequence import TaskSequence
from orchestrator.spec.experiment import Experiment


@dataclass
class PassSize:
    """How many padded tokens a pass may have: what was asked for, or what failures have left."""

    tokens: int

    def rows(self, longest: int) -> int:
        """How many rows of this length."""
        return max(1, self.tokens // longest)

    def failed(self, rows: int, longest: int) -> None:
        """Remember that so many rows of this length do not fit."""
        if rows > 1:  # a row that does not fit alone says nothing of others
            self.tokens = min(self.tokens, rows * longest // 2)


def row_tokens(experiment: Experiment, sequence: TaskSequence) -> int:
    """Padded tokens of a trial's rows in a learning pass, at most."""
    rows = experiment.training.batch_size
    if RETENTIONS[experiment.method.retention.kind].replays:
        rows *= 2  # as many replayed ones as new ones
    return rows * max((len(one.tokens) for task in sequence.tasks for one in task.train), default=0)
