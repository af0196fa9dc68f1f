"""What a trial reports at a rung or after a task, as a value and as a JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

DONE = 1.0


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
