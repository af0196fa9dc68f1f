"""The rows of an optimiser step, sharded across workers and split into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.data.items import Example
from orchestrator.data.model_inputs import Scored
from orchestrator.engines.row_batches import scored_example
from orchestrator.engines.workers import Workers


@dataclass(frozen=True)
class MicroBatch:
    """One worker's rows of one forward pass."""

    rows: list[Scored]
    replayed: list[bool]
    counts: bool
    """Whether they are part of the batch, not computed only because others wait."""


@dataclass(frozen=True)
class StepBatch:
    """One worker's part of an optimiser step."""

    micros: list[MicroBatch]
    scored: int
    """Scored tokens of the whole step, over all workers."""
    replayed_tokens: int
    """Tokens of replayed rows of the whole step."""


def sharded_batch(
    examples: Sequence[Example], replayed: Sequence[Example], workers: Workers, accumulation: int
) -> StepBatch:
    """This worker's micro-batches of a step.

    Args:
        examples: New examples, on every worker.
        replayed: Those of earlier tasks that the retention adds.
        workers: Which of how many this is.
        accumulation: How many micro-batches each worker computes.

    Returns:
        Its rows, and the numbers of the whole step that its loss is divided by.
    """
    # Sorted by length, so that round-robin shards are equal work.
    marked = [*((e, False) for e in examples), *((e, True) for e in replayed)]
    ordered = sorted(marked, key=lambda pair: -len(pair[0].tokens))
    rows = [(scored_example(example), again) for example, again in ordered]
    micros: list[MicroBatch] = []
    for micro in range(accumulation):
        shards = Workers(micro * workers.world + workers.rank, workers.world * accumulation)
        own, counts = shards.shard(rows)
        # A row that does not count is compared with nothing, either.
        flags = [again and counts for _, again in own]
        micros.append(MicroBatch([row for row, _ in own], flags, counts))
    return StepBatch(
        micros,
        scored=sum(len(row.picks) for row, _ in rows),
        replayed_tokens=sum(len(row.tokens) for row, again in rows if again),
    )
