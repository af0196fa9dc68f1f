"""How rows of several slots are cut into forward passes that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.loop.task_sequence import TaskSequence
from orchestrator.spec.experiment import Experiment

PASS_TOKENS = 40
"""What one more pass costs on a CPU, in tokens, for deciding how much padding is worth it. With 16
rows of 40 tokens in each it was seen to cost 90; from 40 to 90 the whole of a mixed pack costs the
same within 2 %, and with 40 more of it is useful."""


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


def cut_into_passes(
    sizes: Sequence[tuple[int, int]], shard_size: Callable[[int], int], limit: int, each: int
) -> list[tuple[int, int]]:
    """Cut slots into the passes that compute least.

    Args:
        sizes: Rows of each slot and tokens of its longest, the longest slots first.
        shard_size: The rows of the largest shard of so many.
        limit: Padded tokens of a pass; a slot that has more alone is a pass of its own.
        each: What a pass costs besides, in tokens.

    Returns:
        First and end of each pass, in order.
    """
    # best[i]: the least that the first i slots cost, and where their last pass begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(sizes) + 1):
        found, count = (math.inf, end), 0
        for first in reversed(range(end)):
            count += sizes[first][0]
            tokens = shard_size(count) * sizes[first][1]
            if tokens > limit and end - first > 1:
                break
            found = min(found, (best[first][0] + tokens + each, first))
        best.append(found)
    cuts, end = list[tuple[int, int]](), len(sizes)
    while end:
        cuts.append((best[end][1], end))
        end = best[end][1]
    return cuts[::-1]


def row_tokens(experiment: Experiment, sequence: TaskSequence) -> int:
    """Padded tokens of a trial's rows in a learning pass, at most."""
    rows = experiment.training.batch_size
    if RETENTIONS[experiment.method.retention.kind].replays:
        rows *= 2  # as many replayed ones as new ones
    return rows * max((len(one.tokens) for task in sequence.tasks for one in task.train), default=0)
