"""Predicted sizes of the methods of a file on a base: adapters, and what retentions carry.

Predicted from shapes, before any weight is loaded; what does not go together is found here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from curlora_kinds.adapters.table import adapter_kind, quantisation_refuses, sharding_refuses
from curlora_kinds.retentions.sizes import state_size
from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.base.facts import OPTIMISER_BYTES, RECORD_BYTES, BaseFacts
from orchestrator.executors.pool.admission import packing_refuses
from orchestrator.loop.kept_states import MOST_BYTES, MOST_SHARE, kept_bytes
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.spec.adapter_settings import adapter_options
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.reach import possible_methods
from orchestrator.spec.retention_settings import retention_options
from orchestrator.system.byte_units import GIB

Targets: TypeAlias = tuple[str, ...] | str
"""`target_modules`: endings of names, or a string for every linear layer."""


@dataclass(frozen=True)
class AdapterFacts:
    """Sizes of one adapter that the file may train."""

    kind: str
    r: int | None
    """Rank; None for an adapter that has none."""
    trained: int
    """Trained parameters."""
    frozen: int
    """Frozen numbers held in memory as well (C and R of CURLoRA)."""
    layers: int
    changes_base: str
    """When the base's weights are written: never, init, train or merge."""


@dataclass(frozen=True)
class MethodFacts:
    """Sizes of one method that a trial may have."""

    name: str
    adapter: AdapterFacts
    retention: str
    carried: int
    """Bytes that the retention carries between tasks, on each worker."""
    arithmetic: str
    """How they come about."""


def targets_of(adapter: Any, family: str | None) -> Targets | None:
    """The layers that an adapter goes on.

    Args:
        adapter: `method.adapter` of an experiment.
        family: `model_type` of the base, None when it is unknown.

    Returns:
        Endings of module names, "all-linear", or None for an adapter without targets, or where the
        family's default is not known.
    """
    from curlora.targets import known_targets

    if "target_modules" not in type(adapter).model_fields:
        return None
    default = known_targets().get(str(family))
    # A regular expression says nothing of sizes; a string stands for every linear layer here.
    return adapter.target_modules or (None if isinstance(default, str) else default)


def is_target(name: str, targets: Targets) -> bool:
    """Whether PEFT adapts the linear layer of a name.

    Args:
        name: The module's name.
        targets: Endings of names; a string stands for every linear layer.

    Returns:
        True when it does.
    """
    if isinstance(targets, str):
        return True
    return any(name == target or name.endswith(f".{target}") for target in targets)


def method_facts(
    experiment: Experiment, base: BaseFacts, *, tokens_per_example: float = 0.0
) -> list[MethodFacts]:
    """The sizes of every method that the file may try.

    Args:
        experiment: The experiment.
        base: The base model's sizes.
        tokens_per_example: Mean length of a training example.

    Returns:
        One entry a method and rank (of a range of ranks its two ends), without repetitions. A
        method that cannot be is left out: `method_problems` says why.
    """
    found: dict[tuple[Any, ...], MethodFacts] = {}
    for method in possible_methods(experiment):
        if any(_refusals(method, experiment)):
            continue
        facts = _facts(method, experiment, base, tokens_per_example)
        found.setdefault((facts.name, facts.adapter, facts.carried), facts)
    return list(found.values())


def _facts(
    method: MethodSpec, experiment: Experiment, base: BaseFacts, tokens_per_example: float
) -> MethodFacts:
    kind = adapter_kind(method.adapter.kind)
    options = adapter_options(method.adapter)
    targets = targets_of(method.adapter, base.model_type)
    layers = {n: s for n, s in base.shapes.items() if targets and is_target(n, targets)}
    shapes: Mapping[str, tuple[int, ...]] = layers
    if kind.trains_base:
        shapes = {"every parameter": (base.parameters,)}
    r = options.get("r")
    fitting = dict(options)
    if r is not None and layers:
        # A rank that does not fit is refused elsewhere; sizes are those of the largest that does.
        fitting["r"] = min(r, *(min(shape) for shape in layers.values()))
    adapter = AdapterFacts(
        kind=kind.name,
        r=r,
        trained=kind.trained(fitting, shapes),
        frozen=kind.frozen(fitting, shapes),
        layers=len(layers),
        changes_base=kind.changes_base,
    )
    size = state_size(
        method.retention.kind,
        retention_options(method.retention, experiment.training.seed),
        adapter_kind=kind.name,
        r=fitting.get("r") or 1,
        layers=layers,
        trained=adapter.trained,
        tasks=len(experiment.tasks),
        tokens_per_example=tokens_per_example,
    )
    return MethodFacts(method.name, adapter, method.retention.kind, size.bytes, size.arithmetic)


def _refusals(method: MethodSpec, experiment: Experiment) -> Iterator[str]:
    """Why an adapter does not go with its retention, or with the base's form."""
    from curlora.targets import quantisation_refuses_engine

    kind = method.adapter.kind
    options = retention_options(method.retention, experiment.training.seed)
    rank = getattr(method.adapter, "r", None)
    reason = RETENTIONS[method.retention.kind].refuses(kind, {**options, "r": rank})
    if reason:
        yield f"`method`: the retention {method.retention.kind!r} with the adapter {kind!r}: " + (
            reason
        )
    refused = quantisation_refuses(kind, experiment.model.quantization)
    if refused:
        yield f"`method.adapter`: {refused}"
    zero = experiment.training.deepspeed.get("zero_optimization", {})
    stage = int(zero.get("stage", 0)) if experiment.resources.facts.on_ray else None
    unfit = quantisation_refuses_engine(experiment.model.quantization, stage)
    if unfit:
        yield f"`model.quantization`: {unfit}"
    refused = sharding_refuses(kind, stage)
    # A member of the pool reads the parts of the base by itself.
    packed = experiment.resources.facts.packs and packing_refuses(method) is None
    if refused and not packed:
        yield f"`method.adapter`: {refused}"


def method_problems(experiment: Experiment, base: BaseFacts | None) -> Iterator[str]:
    """What does not go together, or is too large, among the methods that a file may try.

    Args:
        experiment: The experiment.
        base: The base model's sizes, None when they are unknown.

    Yields:
        One message each.
    """
    named: set[str] = set()
    for method in possible_methods(experiment):
        for text in _refusals(method, experiment):
            if text not in named:
                named.add(text)
                yield text
    if base is None:
        return
    budget = experiment.resources.retention_gib
    for facts in method_facts(experiment, base):
        if facts.carried > budget * GIB and facts.arithmetic not in named:
            named.add(facts.arithmetic)
            yield (
                f"The retention of {facts.name!r} would carry {facts.carried / GIB:.2f} GiB on each"
                f" worker, more than `resources.retention_gib` allows ({budget:g} GiB): "
                f"{facts.arithmetic}. Adapt fewer layers, choose a smaller curvature, or raise the "
                "limit"
            )


def shared_states_bytes(
    methods: Sequence[MethodFacts], trials: int, tasks: int, storage: Path, free: int | None
) -> float:
    """What the states may take on the disk that trials of a storage folder share.

    Args:
        methods: The methods' sizes.
        trials: Number of trials.
        tasks: Number of tasks.
        storage: The folder that sweeps are kept in.
        free: Free bytes there; None: not known.

    Returns:
        Bytes that may still come: a state for each task of each trial, as far as the bounds of
        `kept_states` let them.
    """
    state = max((method.adapter.trained * 4 + method.carried for method in methods), default=0)
    share = math.inf if free is None else MOST_SHARE * free
    taken = kept_bytes(SweepFolder(storage / "sweep").states)
    return max(0.0, min(trials * tasks * state, MOST_BYTES - taken, share))


def storage_bytes(methods: Sequence[MethodFacts], trials: int, tasks: int) -> float:
    """Adapters twice (the sweep's folder and MLflow's), a checkpoint, and the records.

    Of small adapters one more is kept after each task but the last. What a trial carries is kept
    after the last: the trained tensors once more, and what its retention carries.

    Args:
        methods: The methods' sizes.
        trials: Number of trials.
        tasks: Number of tasks.

    Returns:
        Bytes.
    """
    adapters = [method.adapter for method in methods]
    largest = max((a.trained for a in adapters), default=0)
    carried = max((method.adapter.trained * 4 + method.carried for method in methods), default=0)
    small = max((a.trained for a in adapters if adapter_kind(a.kind).small), default=0)
    kept = largest * (4 * 2 + OPTIMISER_BYTES) + small * 4 * (tasks - 1) + carried
    return trials * (kept + RECORD_BYTES)
