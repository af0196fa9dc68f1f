"""Reading the test data: once a verdict is made, its champion, runner-up and base are scored on it.

Nothing is chosen by what comes out. The scores are computed from the adapters that the trials have
saved, by whoever computes for the sweep: this process (`executor: local`), or a task on the
cluster.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.batches import PreparedData, PreparedTask
from orchestrator.evaluation import Score
from orchestrator.experiment import Experiment, ResourceSpec
from orchestrator.journal import without_nan
from orchestrator.tasks import ClassificationTask, GenerationTask

POLL_SECONDS = 1.0
"""How often a task on the cluster is asked whether it is done, so that Ctrl-C is heard."""


class ReadingError(RuntimeError):
    """The test data could not be read; the message says why. Nothing was recorded of it."""


@dataclass(frozen=True)
class Side:
    """A model that is scored on the test data."""

    experiment: Experiment
    """With the trial's overrides applied."""
    adapter: Path | None
    """Its saved adapter; None: the untouched base."""


def read_sides(sides: Mapping[str, Side], data: PreparedData) -> dict[str, dict[str, Any]]:
    """Score some models on the test data, in this process.

    Args:
        sides: The models by name.
        data: The tokenised data.

    Returns:
        By name either `row` (a score by task, None where a task has no test examples), `metrics`
        and `per_example`, of the base also `head_only` and `head_only_per_example`; or `unread`,
        why it could not be scored.
    """
    return _each(sides, data, _plain_engine)


def _each(
    sides: Mapping[str, Side],
    data: PreparedData,
    engine_of: Callable[[Side, list[PreparedTask]], AbstractContextManager[Any]],
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        try:
            found[name] = without_nan(_scores(side, data, engine_of))
        except Exception as error:  # noqa: BLE001 (a broken adapter costs no other side its scores)
            said = " ".join(str(error).split()) or type(error).__name__
            found[name] = {"unread": said}
        gc.collect()  # the next one loads a base of its own
    return found


def _scores(
    side: Side,
    data: PreparedData,
    engine_of: Callable[[Side, list[PreparedTask]], AbstractContextManager[Any]],
) -> dict[str, Any]:
    from orchestrator.evaluation import score

    tasks = [data.tasks[name] for name in side.experiment.tasks]
    if not any(task.test for task in tasks):
        raise ValueError("no task has test examples")
    if side.adapter is not None and not side.adapter.is_dir():
        raise FileNotFoundError(f"its adapter is gone: there is no {side.adapter}")
    with engine_of(side, tasks) as engine:
        headed = engine.scored.heads is not None
        scores = {
            task.name: score(task.test, task.spec, engine)
            for task in tasks
            if task.test and (headed or not task.has_head)
        }
        document = _document(tasks, scores)
        if side.adapter is None:
            document |= _head_only(tasks, engine)
    return document


@contextmanager
def _plain_engine(side: Side, tasks: list[PreparedTask]) -> Iterator[Any]:
    """The model of a side in this process."""
    import torch

    from curlora import load_adapter
    from orchestrator.base_model import load_base
    from orchestrator.engine import PlainEngine

    experiment = side.experiment
    torch.set_num_threads(experiment.resources.cpus_per_worker)
    device = "cuda" if experiment.resources.gpus_per_worker else "cpu"
    model: Any = load_base(experiment.model, experiment.training.precision, device)
    if side.adapter is not None:
        model = load_adapter(model, side.adapter).eval()
    yield PlainEngine(
        model,
        experiment.training,
        batch_tokens=experiment.data.batch_tokens,
        heads=_heads(side),
        tokenizer=_tokenizer(experiment, tasks),
    )


def _heads(side: Side) -> Any:
    """The linear heads beside a side's adapter; None where it has none."""
    from orchestrator.scored_model import HEADS_FILE, LinearHeads

    kept = side.adapter / HEADS_FILE if side.adapter is not None else None
    return LinearHeads.from_file(kept) if kept is not None and kept.is_file() else None


def _tokenizer(experiment: Experiment, tasks: list[PreparedTask]) -> Any:
    from orchestrator.base_model import load_tokenizer

    writes = any(isinstance(task.spec, GenerationTask) for task in tasks)
    return load_tokenizer(experiment.model) if writes else None


def _document(tasks: list[PreparedTask], scores: Mapping[str, Score]) -> dict[str, Any]:
    return {
        "row": [scores[t.name].value if t.name in scores else None for t in tasks],
        "metrics": {name: scored.metrics for name, scored in scores.items()},
        "per_example": {name: scored.per_example for name, scored in scores.items()},
    }


def _head_only(tasks: list[PreparedTask], engine: Any) -> dict[str, Any]:
    """The control on the test examples, fitted to the training examples as with row 0."""
    from orchestrator.head_only import head_only

    fitted = {
        task.name: head_only(task, engine.hidden_states, task.test)
        for task in tasks
        if task.test and isinstance(task.spec, ClassificationTask)
    }
    return {
        "head_only": {name: scored.metrics for name, scored in fitted.items()},
        "head_only_per_example": {name: scored.per_example for name, scored in fitted.items()},
    }


# --- on the cluster ------------------------------------------------------------------------------


def read_on_ray(
    sides: Mapping[str, Side], data: PreparedData, resources: ResourceSpec, folder: Path
) -> dict[str, dict[str, Any]]:
    """The same on the Ray cluster.

    A base that fits onto one worker is read by a task with that worker's CPUs and GPUs; one that
    ZeRO stage 3 parts among several workers by as many Ray Train workers.

    Args:
        sides: The models by name; their adapters must be readable where they are computed.
        data: The tokenised data.
        resources: What a worker of the sweep has.
        folder: A folder for Ray Train, on the sweep's storage; removed afterwards.

    Returns:
        As `read_sides`.

    Raises:
        ReadingError: If it could not be run.
    """
    import ray
    from ray.exceptions import RayError

    shared = ray.put(data)
    parted = {n: s for n, s in sides.items() if is_parted(s.experiment)}
    found = _read_by_train(parted, shared, folder) if parted else {}
    rest = {name: side for name, side in sides.items() if name not in parted}
    if not rest:
        return found
    task: Any = ray.remote(
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker,
        max_retries=resources.max_failures,
    )(read_sides)
    asked = task.remote(rest, shared)
    try:
        while not ray.wait([asked], timeout=POLL_SECONDS)[0]:
            pass
        return {**found, **ray.get(asked)}
    except RayError as error:
        raise ReadingError(_last_line(error)) from None


def is_parted(experiment: Experiment) -> bool:
    """Whether a trial's base may be too large for one worker: ZeRO stage 3 over several."""
    zero = experiment.training.deepspeed.get("zero_optimization", {})
    return zero.get("stage") == 3 and experiment.resources.workers > 1


def _read_by_train(
    sides: Mapping[str, Side], shared: Any, folder: Path
) -> dict[str, dict[str, Any]]:
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    from orchestrator.training import worker_group

    found: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        resources, target = side.experiment.resources, folder / f"{name}.json"
        folder.mkdir(parents=True, exist_ok=True)
        trainer = TorchTrainer(
            _parted_worker,
            train_loop_config={
                "experiment": side.experiment.for_workers(),
                "adapter": None if side.adapter is None else str(side.adapter),
                "name": name,
                "target": str(target),
                "shared": [shared],
            },
            **worker_group(resources),
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
            raise ReadingError(_last_line(error)) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return found


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else repr(error)


def _parted_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker of a reading does; the first writes what was found."""
    import ray
    import ray.train

    from orchestrator.training import prepare_for_deepspeed

    experiment = Experiment.model_validate(config["experiment"])
    prepare_for_deepspeed(experiment)
    adapter = None if config["adapter"] is None else Path(config["adapter"])
    side = Side(experiment, adapter)
    found = read_in_parts({config["name"]: side}, ray.get(config["shared"][0]))
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["target"]).write_text(json.dumps(found), encoding="utf-8")


def read_in_parts(sides: Mapping[str, Side], data: PreparedData) -> dict[str, dict[str, Any]]:
    """The same by a group of workers, each of which holds a part of the base; a collective.

    Args:
        sides: The models by name.
        data: The tokenised data.

    Returns:
        As `read_sides`, on every worker.
    """
    return _each(sides, data, _parted_engine)


@contextmanager
def _parted_engine(side: Side, tasks: list[PreparedTask]) -> Iterator[Any]:
    import torch

    from curlora import adapter_kind_of, attach, load_adapter
    from orchestrator.base_model import load_base, partitioned
    from orchestrator.engine import DeepSpeedEngine, zero3_config

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
    whole = side.adapter is not None and adapter_kind_of(side.adapter) == "full"
    for name, parameter in model.named_parameters():
        if whole or ".default" in name:
            parameter.requires_grad_(parameter.is_floating_point())
    engine = DeepSpeedEngine(
        model,
        experiment.training,
        batch_tokens=experiment.data.batch_tokens,
        heads=_heads(side),
        tokenizer=_tokenizer(experiment, tasks),
    )
    with model.disable_adapter() if side.adapter is None else nullcontext():
        yield engine
