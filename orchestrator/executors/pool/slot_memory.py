"""Whether a trial can have a slot of a pack, and the memory that it and its passes will take."""

from __future__ import annotations

from dataclasses import dataclass

from curlora.packing.pack import PackedModel
from curlora_kinds.adapters.table import adapter_kind
from curlora_kinds.retentions.sizes import state_size
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.executors.pool.admission import packing_refuses
from orchestrator.loop.task_sequence import TaskSequence
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.retention_settings import retention_options


def check_packable(name: str, experiment: Experiment, sequence: TaskSequence) -> None:
    """Refuse a trial that cannot be trained in a pack.

    Args:
        name: The trial's name.
        experiment: Its experiment, overrides applied.
        sequence: What it learns.

    Raises:
        ValueError: If its method, its accumulation or a task's head is not built for packs.
    """
    reason = packing_refuses(experiment.method)
    if reason is None and experiment.training.accumulation != 1:
        reason = "`training.accumulation` must be 1"
    if reason is None and any(task.has_head for task in sequence.tasks):
        reason = "linear heads have not been built for packs"
    if reason is not None:
        raise ValueError(
            f"The trial {name!r} cannot be packed: {reason}. Use `resources.executor: train`."
        )


def slot_bytes(pack: PackedModel, experiment: Experiment) -> int:
    """How much more memory a pack will hold once a trial has joined.

    Its numbers, gradients and moments, padded to the widest adapter of its kind (and the other
    ones to it, where it is the widest); the columns and rows of a selection that no other has;
    what its retention carries. Not what its rows take in a pass.

    Args:
        pack: The pack.
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
    layers = {name: (one.d_out, one.d_in) for name, one in pack.layers.items()}
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
    return pack.bytes_of(adapter.kind, settings) + carried.bytes


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
