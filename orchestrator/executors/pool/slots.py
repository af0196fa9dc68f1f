"""The slots of a pack: one trial each, and its optimiser state as a checkpoint lays it out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from curlora.packing.pack import Moments
from curlora.retention.protocol import Retention
from orchestrator.loop.requests import Learning
from orchestrator.loop.trial_state import TrialState
from orchestrator.loop.work_meter import WorkMeter
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.sections import TrainingSpec


@dataclass
class Slot:
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
    tokens: int
    """Padded tokens of its rows in a learning pass, at most."""
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
    details: str = ""
    """The traceback of what was raised; empty where the reason says all."""


@contextmanager
def charged(slot: Slot) -> Iterator[None]:
    """Charge a slot for what is done for it alone."""
    began = time.monotonic()
    yield
    slot.seconds += time.monotonic() - began


def optimizer_tensors(moments: Moments, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A slot's optimiser state as `engines.checkpoints.flat_state` lays out torch's own."""
    tensors: dict[str, Tensor] = {}
    for index, (name, value) in enumerate(values.items()):
        tensors[f"{index}.master"] = value
        tensors[f"{index}.step"] = torch.tensor(float(moments.steps))
        tensors[f"{index}.exp_avg"] = moments.first[name]
        tensors[f"{index}.exp_avg_sq"] = moments.second[name]
    return tensors


def moments_of(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Moments:
    """The reverse of `optimizer_tensors`."""
    return Moments(
        int(tensors["0.step"]),
        {name: tensors[f"{index}.exp_avg"] for index, name in enumerate(names)},
        {name: tensors[f"{index}.exp_avg_sq"] for index, name in enumerate(names)},
    )
