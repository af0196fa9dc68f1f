"""Reading the test data on a Ray cluster.

A base that fits onto one worker is read by processes with a copy each (`readers`), a larger one by
workers that each hold a part.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from orchestrator.data.prepared import PreparedData, PreparedTask
from orchestrator.executors.worker_group import prepare_for_deepspeed, worker_group
from orchestrator.spec.experiment import Experiment, experiment_received
from orchestrator.spec.sections import ResourceSpec
from orchestrator.sweep.scores.readers import last_line, read_side_by_side
from orchestrator.sweep.scores.readings import (
    ReadingError,
    Side,
    read_each,
    saved_heads,
    writing_tokenizer,
)
from orchestrator.system.stores.opening import bring


def read_on_ray(
    sides: Mapping[str, Side],
    data: PreparedData,
    resources: ResourceSpec,
    folder: Path,
    avoid: Callable[[], Sequence[str]] = tuple,
) -> dict[str, dict[str, Any]]:
    """The same on the Ray cluster.

    Where a base fits onto one worker, models are scored side by side, each process with that
    worker's CPUs and GPUs; one that ZeRO stage 3 shards over several workers is by as many Ray
    Train workers.

    Args:
        sides: The models by name; their adapters must be readable where they are computed.
        data: The tokenised data.
        resources: What a worker of the sweep has.
        folder: A folder for Ray Train, on the sweep's storage; removed afterwards.
        avoid: Gives the ids of nodes that do not take part.

    Returns:
        As `read_sides`.

    Raises:
        ReadingError: If it could not be run.
    """
    return dict(score_on_ray(sides, data, resources, folder, avoid))


def score_on_ray(
    sides: Mapping[str, Side],
    data: PreparedData,
    resources: ResourceSpec,
    folder: Path,
    avoid: Callable[[], Sequence[str]] = tuple,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Score models, as many at a time as the cluster holds; see `read_on_ray`.

    Args:
        sides: The models by name.
        data: The tokenised data.
        resources: What a worker of the sweep has.
        folder: A folder for Ray Train.
        avoid: Gives the ids of nodes that do not take part.

    Yields:
        The name of each and what `read_sides` says of it, as soon as it is known.

    Raises:
        ReadingError: If it could not be run.
    """
    import ray

    shared = ray.put(data)
    for name, side in sides.items():
        if is_sharded(side.experiment):
            yield from _read_by_train({name: side}, shared, folder, avoid()).items()
    rest = {name: side for name, side in sides.items() if not is_sharded(side.experiment)}
    if rest:
        yield from read_side_by_side(rest, data, resources, avoid())


def is_sharded(experiment: Experiment) -> bool:
    """Whether a trial's base may be too large for one worker: ZeRO stage 3 over several."""
    zero = experiment.training.deepspeed.get("zero_optimization", {})
    return zero.get("stage") == 3 and experiment.resources.workers > 1


def _read_by_train(
    sides: Mapping[str, Side], shared: Any, folder: Path, avoid: Sequence[str]
) -> dict[str, dict[str, Any]]:
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    found: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        resources, target = side.experiment.resources, folder / f"{name}.json"
        folder.mkdir(parents=True, exist_ok=True)
        trainer = TorchTrainer(
            _sharded_worker,
            train_loop_config={
                "side": sent(side),
                "name": name,
                "target": str(target),
                "shared": [shared],
            },
            **worker_group(resources, avoid),
            run_config=RunConfig(
                name=f"test-{name}",
                storage_path=str(folder),
                failure_config=FailureConfig(
                    max_failures=resources.max_failures, controller_failure_limit=3
                ),
            ),
        )
        try:
            trainer.fit()
            found |= json.loads(target.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001 (Ray raises bare ones)
            raise ReadingError(last_line(error)) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def sent(side: Side) -> dict[str, Any]:
    """A model as workers are told of it; see `received`."""
    return {
        "experiment": side.experiment.for_workers(),
        "adapter": None if side.adapter is None else str(side.adapter),
        "cells": None if side.cells is None else dict(side.cells),
    }


def received(config: Mapping[str, Any]) -> Side:
    """What `sent` gave, in a worker, with its plugins loaded."""
    adapter = None if config["adapter"] is None else Path(config["adapter"])
    experiment = experiment_received(config["experiment"])
    if adapter is not None:
        bring(adapter)  # another node may have made it
    return Side(experiment, adapter, config["cells"])


def _sharded_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker of a reading does; the first writes what was found."""
    import ray
    import ray.train

    side = received(config["side"])
    prepare_for_deepspeed(side.experiment)
    found = read_sharded({config["name"]: side}, ray.get(config["shared"][0]))
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["target"]).write_text(json.dumps(found), encoding="utf-8")


def read_sharded(sides: Mapping[str, Side], data: PreparedData) -> dict[str, dict[str, Any]]:
    """The same by a group of workers, each of which holds a shard of the base; a collective.

    Args:
        sides: The models by name.
        data: The tokenised data.

    Returns:
        As `read_sides`, on every worker.
    """
    return read_each(sides, data, _sharded_engine)


@contextmanager
def _sharded_engine(side: Side, tasks: list[PreparedTask]) -> Iterator[Any]:
    import torch

    from curlora import adapter_kind_of, attach, load_adapter
    from curlora.adapters.saving import trains_base
    from orchestrator.base.loading import load_base, partitioned
    from orchestrator.engines.deepspeed import DeepSpeedEngine
    from orchestrator.engines.sharded_base import zero3_config

    experiment = side.experiment
    torch.set_num_threads(experiment.resources.cpus_per_worker)
    on_gpu = experiment.resources.gpus_per_worker > 0
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu"
    with partitioned(zero3_config(experiment.training)):
        model: Any = load_base(experiment.model, experiment.training.precision, device)
        if side.adapter is None:
            # DeepSpeed wants something to train; it is switched off.
            model = attach(model, "lora", {"r": 1, "target_modules": "all-linear"}, seed=0)
        else:
            model = load_adapter(model, side.adapter)
    # Nothing is trained, but DeepSpeed wants to be told of something that could be.
    whole = side.adapter is not None and trains_base(adapter_kind_of(side.adapter))
    for name, parameter in model.named_parameters():
        if whole or ".default" in name:
            parameter.requires_grad_(parameter.is_floating_point())
    engine = DeepSpeedEngine(
        model,
        experiment.training,
        batch_tokens=experiment.data.batch_tokens,
        heads=saved_heads(side),
        tokenizer=writing_tokenizer(experiment, tasks),
    )
    with model.disable_adapter() if side.adapter is None else nullcontext():
        yield engine
