"""The executor `train`: one trial as Ray Train workers with a DeepSpeed engine.

`trial_function` runs as a Ray Tune trial and starts the workers; `train_worker` runs in each of
them. Workers report, the driver records. `run_locally` is the executor `local`: the same learning
in one process with the plain engine.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.accuracy_matrix import AccuracyMatrix
from orchestrator.batches import PreparedData
from orchestrator.communication_op import keep_in_environment
from orchestrator.continual_loop import (
    DONE,
    DivergedError,
    Progress,
    StageReport,
    TaskSequence,
    learn_sequence,
    measure_base,
    run,
)
from orchestrator.experiment import Experiment, ResourceSpec
from orchestrator.journal import without_nan
from orchestrator.methods import CordaSettings, adapter_options, retention_options
from orchestrator.seals import Maker, seal
from orchestrator.tasks import GenerationTask
from orchestrator.trial_state import (
    SetAside,
    TrialState,
    found_checkpoint,
    fresh_state,
    keep_checkpoint,
    last_whole,
    read_state,
    task_sequence,
    write_state,
)

_RAY_NOTE = "checkpoint_manager_snapshot.json"
BASE_TRIAL = "base"
"""The name of the trial that measures row 0."""


class ProgressFile:
    """How far a trial is, in a file beside its log.

    Not a report: a report makes every worker wait for the others and for the driver, which cost a
    fifth of a small trial's time.
    """

    SECONDS = 0.5
    """Least time between two writes."""

    def __init__(self, sweep_folder: Path, trial: str) -> None:
        """Name the file.

        Args:
            sweep_folder: The sweep's folder.
            trial: The trial's name.
        """
        self._path = sweep_folder / "trials" / trial / "progress.json"
        self._written = -math.inf

    def write(self, progress: Progress) -> None:
        """Say how far the trial is, unless that was said a moment ago."""
        now = time.monotonic()
        if now - self._written < self.SECONDS:
            return
        self._written = now
        half = self._path.with_suffix(".half")
        # Nothing depends on it: on a full disk it stays behind, and the trial says what is wrong.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            half.write_text(json.dumps(without_nan(asdict(progress))), encoding="utf-8")
            half.replace(self._path)

    def read(self) -> dict[str, Any] | None:
        """What was said last; None before the first word."""
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Forget it."""
        self._path.unlink(missing_ok=True)


# --- in each Ray Train worker --------------------------------------------------------------------


def prepare_for_deepspeed(experiment: Experiment) -> None:
    """Set what DeepSpeed reads from the environment; before torch or DeepSpeed are imported.

    Args:
        experiment: What the worker is for.
    """
    if experiment.resources.gpus_per_worker == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"
        keep_in_environment()
    # Of another launcher (MPI, DeepSpeed's own): workers of as many would then exchange through
    # /dev/shm, 66 MiB each, and die where a container has 64.
    os.environ.pop("LOCAL_SIZE", None)
    # DeepSpeed looks for ninja on the path; ours is beside the interpreter. Another version of it
    # would compile again what `orchestrate doctor --build` has compiled.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def train_worker(config: dict[str, Any]) -> None:
    """What every Ray Train worker of a trial does.

    Args:
        config: `trial`, `experiment` (a document), `maker` (a document), `folder` (the sweep's) and
            `shared` (a list holding the reference of the `PreparedData`).
    """
    import ray
    import ray.train

    experiment = Experiment.model_validate(config["experiment"])
    prepare_for_deepspeed(experiment)
    import torch

    torch.set_num_threads(experiment.resources.cpus_per_worker)
    maker = Maker(**config["maker"])
    checkpoint, aside = _worker_checkpoint(Path(config["folder"]), maker)
    for found in aside:
        ray.train.report(found.as_message())
    trial = _WorkerTrial(
        maker,
        experiment,
        ray.get(config["shared"][0]),
        checkpoint,
        ProgressFile(Path(config["folder"]), config["trial"]),
    )
    # A worker that was killed may have left a checkpoint whose report never arrived: it is told
    # again. Not `pid`: Ray Tune writes its own process's number under that name.
    ray.train.report(
        {
            "kind": "ready",
            "worker_pid": os.getpid(),
            "reports": trial.reports_so_far,
            "checkpoint_path": str(checkpoint) if checkpoint is not None else None,
        }
    )
    try:
        trial.run()
    except DivergedError as error:
        # The loss is the same on every worker, so all of them come here; a restart would only
        # diverge again.
        ray.train.report({"kind": "failed", "reason": str(error)})


def _worker_checkpoint(sweep_folder: Path, maker: Maker) -> tuple[Path | None, list[SetAside]]:
    """Where a trial goes on from, and what was set aside; the same on all of its workers.

    Ray Train knows which checkpoint is the last, but not whether it is whole.

    Args:
        sweep_folder: The sweep's folder.
        maker: The trial.

    Returns:
        As `last_whole`.
    """
    import ray.train

    from orchestrator.ranks import ALONE, Ranks

    context = ray.train.get_context()
    ranks = Ranks.of_group() if context.get_world_size() > 1 else ALONE
    found: tuple[Path | None, list[SetAside]] = None, []
    if ranks.first:
        found = run_checkpoint(sweep_folder, maker)
    return ranks.told(found)


def run_checkpoint(sweep_folder: Path, maker: Maker) -> tuple[Path | None, list[SetAside]]:
    """The last whole checkpoint that a trial's own workers have left; see `last_whole`."""
    # Their names are the times at which they were written. Ray Train removes old ones by itself,
    # and wants them to be there.
    folder = sweep_folder / "ray" / maker.trial
    names = sorted(path for path in folder.glob("checkpoint_*") if ".set-aside-" not in path.name)
    return last_whole(reversed(names), maker, leave=True)


class _WorkerTrial:
    """A trial in one of its Ray Train workers: model, engine, and what it reports."""

    def __init__(
        self,
        maker: Maker,
        experiment: Experiment,
        data: PreparedData,
        checkpoint: Path | None,
        progress: ProgressFile,
    ) -> None:
        import torch

        from curlora.targets import parting_refuses
        from orchestrator.base_model import partitioned
        from orchestrator.engine import DeepSpeedEngine, zero3_config

        self._maker = maker
        self._name = name = maker.trial
        self._progress = progress
        self._sequence = task_sequence(experiment, data)
        self._state = read_state(checkpoint) if checkpoint else fresh_state(self._sequence)
        on_gpu = experiment.resources.gpus_per_worker > 0
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu"
        zero3 = zero3_config(experiment.training)
        refused = parting_refuses(experiment.method.adapter.kind, None if zero3 is None else 3)
        if refused and name != BASE_TRIAL:  # a pool could not hold it, so it came here after all
            raise ValueError(f"`method.adapter`: {refused}")
        with partitioned(zero3):
            self._model = _adapted_model(name, experiment, data, device)
        self._engine = DeepSpeedEngine(
            self._model,
            experiment.training,
            batch_tokens=experiment.data.batch_tokens,
            weights=None if name == BASE_TRIAL else checkpoint,
            heads=None if name == BASE_TRIAL else _heads(self._sequence, self._model),
            tokenizer=_tokenizer(experiment, self._sequence),
            retention=None if name == BASE_TRIAL else _retention(experiment),
        )
        _check_logits(self._engine, self._model)
        inside = self._state.start.step > 0
        if checkpoint is not None and name != BASE_TRIAL:
            self._engine.load_retention(checkpoint, inside=inside)
        if checkpoint is not None and inside:
            self._engine.load_optimizer(checkpoint)

    @property
    def reports_so_far(self) -> list[dict[str, Any]]:
        """What was reported up to the checkpoint that it goes on from, as documents."""
        return [report.as_document() for report in self._state.reports]

    def run(self) -> None:
        """Learn what is left of the sequence."""
        _learn(
            self._name,
            self._model,
            self._engine,
            self._sequence,
            self._state,
            self._on_report,
            self._on_progress,
        )

    def _on_report(self, report: StageReport, matrix: AccuracyMatrix) -> None:
        """Report a rung or the end of a task, with the checkpoint that belongs to it."""
        import ray.train

        self._state = self._state.after(report, matrix)
        context = ray.train.get_context()
        first = context.get_world_rank() == 0
        folder = Path(tempfile.mkdtemp(prefix=f"{self._name}-"))
        if self._name != BASE_TRIAL:
            self._engine.save(folder, with_optimizer=report.fraction < DONE)
        if self._name != BASE_TRIAL and report.fraction == DONE:
            with self._engine.gathered():
                if first:
                    self._engine.save_adapter(folder / "adapter")
                    seal(folder / "adapter", self._maker)
        if first:
            write_state(folder, self._state)
        part = context.get_world_rank()
        seal(folder, self._maker, part=part, parts=context.get_world_size())
        ray.train.report(
            {"kind": "stage", "report": report.as_document()},
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
        )
        shutil.rmtree(folder)

    def _on_progress(self, progress: Progress) -> None:
        import ray.train

        if ray.train.get_context().get_world_rank() == 0:
            self._progress.write(progress)


_LEAST_ADAPTER = {"r": 1, "target_modules": "all-linear"}
"""What the untouched base carries, switched off, because DeepSpeed wants something to train."""


def _adapted_model(trial: str, experiment: Experiment, data: PreparedData, device: Any) -> Any:
    """The base with a fresh adapter."""
    from curlora import attach
    from curlora.targets import default_targets
    from orchestrator.base_model import load_base, token_batches

    base: Any = load_base(experiment.model, experiment.training.precision, device)
    seed = experiment.training.seed
    if trial == BASE_TRIAL:
        return attach(base, "lora", _LEAST_ADAPTER, seed=seed)
    adapter = experiment.method.adapter
    text = None
    if isinstance(adapter, CordaSettings):
        text = token_batches(e.tokens for e in data.tasks[str(adapter.source)].train)
    options = adapter_options(adapter)
    if "target_modules" in options and options["target_modules"] is None:
        options["target_modules"] = default_targets(base.config.model_type)
    return attach(base, adapter.kind, options, seed=seed, text=text)


def _retention(experiment: Experiment) -> Any:
    """What protects earlier tasks, with nothing seen yet."""
    from curlora.retention import RETENTIONS

    spec = experiment.method.retention
    return RETENTIONS[spec.kind].build(retention_options(spec, experiment.training.seed))


def _heads(sequence: TaskSequence, model: Any) -> Any:
    """Fresh linear heads for the tasks that have one; None where no task does."""
    from orchestrator.scored_model import LinearHeads, hidden_size

    labels = {task.name: len(task.labels) for task in sequence.tasks if task.has_head}
    return LinearHeads(labels, hidden_size(model), seed=sequence.seed) if labels else None


def _tokenizer(experiment: Experiment, sequence: TaskSequence) -> Any:
    """The tokenizer where a task is scored on written text; None where tokens are enough."""
    from orchestrator.base_model import load_tokenizer

    writes = any(isinstance(t.spec, GenerationTask) for t in (*sequence.tasks, *sequence.probes))
    return load_tokenizer(experiment.model) if writes else None


def _check_logits(engine: Any, model: Any) -> None:
    from orchestrator.scored_model import check_logits

    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    check_logits(engine.scored, bare.config.get_text_config().vocab_size)


def _learn(
    trial: str,
    model: Any,
    engine: Any,
    sequence: TaskSequence,
    state: TrialState,
    on_report: Callable[[StageReport, AccuracyMatrix], None],
    on_progress: Callable[[Progress], None],
) -> None:
    """Measure the base, or learn what is left of the sequence."""
    base = trial == BASE_TRIAL
    learning = (
        measure_base(sequence)
        if base
        else learn_sequence(sequence, engine.retention, state.matrix, state.start)
    )
    with model.disable_adapter() if base else nullcontext():
        run(
            learning,
            engine,
            sequence=sequence,
            matrix=state.matrix,
            start=None if base else state.start,
            on_report=on_report,
            on_progress=on_progress,
        )


# --- in the Ray Tune trial -----------------------------------------------------------------------


def worker_group(resources: ResourceSpec) -> dict[str, Any]:
    """What Ray Train is told of the workers of a trial, or of a member of the pool.

    Args:
        resources: Their number and what each has.

    Returns:
        `scaling_config` and `torch_config` of a `TorchTrainer`.
    """
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig

    per_worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        per_worker["GPU"] = resources.gpus_per_worker
    return {
        "scaling_config": ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=per_worker,
        ),
        "torch_config": TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
    }


def trial_function(config: dict[str, Any], shared: list[Any] | None = None) -> None:
    """One trial: starts its Ray Train workers and passes their reports on to Ray Tune.

    A failure does not raise: it is reported, with the path of its log, and the sweep goes on.

    Args:
        config: `trial`, `experiment` and `maker` (documents) and `folder` (the sweep's).
        shared: A list holding the reference of the `PreparedData`.
    """
    from ray import tune
    from ray.train import (
        CheckpointConfig,
        ControllerError,
        FailureConfig,
        RunConfig,
        WorkerGroupError,
    )
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    experiment = Experiment.model_validate(config["experiment"])
    resources = experiment.resources
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "trial": config["trial"],
            "experiment": config["experiment"],
            "maker": config["maker"],
            "folder": config["folder"],
            "shared": shared,
        },
        **worker_group(resources),
        run_config=RunConfig(
            name=config["trial"],
            storage_path=str(Path(config["folder"]) / "ray"),
            failure_config=FailureConfig(
                max_failures=resources.max_failures, controller_failure_limit=3
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[TuneReportCallback()],
        ),
    )
    # Which checkpoint is the last is found by the workers; a damaged note of it must not stop them.
    (Path(config["folder"]) / "ray" / config["trial"] / _RAY_NOTE).unlink(missing_ok=True)
    try:
        trainer.fit()
    except WorkerGroupError as error:
        tune.report(_failure(config, error, *error.worker_failures.values()))
        return
    except ControllerError as error:
        tune.report(_failure(config, error))
        return
    # A report can be overtaken by the end of the trial, so the last message repeats them all.
    folder, aside = run_checkpoint(Path(config["folder"]), Maker(**config["maker"]))
    for found in aside:
        tune.report(found.as_message())
    if folder is not None:
        state = read_state(folder)
        tune.report(
            {
                "kind": "finished",
                "checkpoint_path": str(folder),
                "reports": [report.as_document() for report in state.reports],
            }
        )


def _failure(config: Mapping[str, Any], *errors: BaseException) -> dict[str, Any]:
    """The message of a failed trial: its reason in one line, and the path of its log."""
    log = Path(config["folder"]) / "trials" / str(config["trial"]) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for error in errors:
            file.write("".join(traceback.format_exception(error)) + "\n")
    last = str(errors[-1]).strip().splitlines()
    return {"kind": "failed", "reason": last[-1] if last else repr(errors[-1]), "log": str(log)}


# --- the executor `local` ------------------------------------------------------------------------


def run_locally(
    trial: str,
    experiment: Experiment,
    data: PreparedData,
    folder: Path,
    maker: Maker,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """One trial in this process with the plain engine; its checkpoints are in `folder`.

    Args:
        trial: The trial's name.
        experiment: With the trial's overrides applied.
        data: The tokenised data.
        folder: Where its checkpoints are kept; the last whole one is continued.
        maker: What its checkpoints are sealed with.
        tell: Receives the same messages as Ray Tune would.
    """
    import torch

    torch.set_num_threads(experiment.resources.cpus_per_worker)
    local = _LocalTrial(trial, experiment, data, folder / "checkpoint", maker, tell)
    try:
        local.run()
    except DivergedError as error:
        tell({"kind": "failed", "reason": str(error)})


class _LocalTrial:
    """A trial in this process."""

    def __init__(
        self,
        name: str,
        experiment: Experiment,
        data: PreparedData,
        checkpoint: Path,
        maker: Maker,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        from orchestrator.engine import PlainEngine

        self._maker = maker
        self._name = name
        self._checkpoint = checkpoint
        self._tell = tell
        self._sequence = task_sequence(experiment, data)
        self._state = fresh_state(self._sequence)
        device = "cuda" if experiment.resources.gpus_per_worker else "cpu"
        self._model = _adapted_model(name, experiment, data, device)
        self._engine = PlainEngine(
            self._model,
            experiment.training,
            batch_tokens=experiment.data.batch_tokens,
            heads=None if name == BASE_TRIAL else _heads(self._sequence, self._model),
            tokenizer=_tokenizer(experiment, self._sequence),
            retention=None if name == BASE_TRIAL else _retention(experiment),
        )
        _check_logits(self._engine, self._model)
        found, aside = found_checkpoint(checkpoint, maker)
        for thing in aside:
            tell(thing.as_message())
        if found is not None:
            self._state = read_state(checkpoint)
            if name != BASE_TRIAL:
                self._engine.load(checkpoint)

    def run(self) -> None:
        """Learn what is left of the sequence."""
        _learn(
            self._name,
            self._model,
            self._engine,
            self._sequence,
            self._state,
            self._on_report,
            lambda progress: self._tell({"kind": "progress", "progress": asdict(progress)}),
        )
        self._tell(
            {
                "kind": "finished",
                "checkpoint_path": str(self._checkpoint),
                "reports": [report.as_document() for report in self._state.reports],
            }
        )

    def _on_report(self, report: StageReport, matrix: AccuracyMatrix) -> None:
        self._state = self._state.after(report, matrix)
        fresh = self._checkpoint.with_name("checkpoint.new")
        shutil.rmtree(fresh, ignore_errors=True)
        if self._name != BASE_TRIAL:
            self._engine.save(fresh, with_optimizer=report.fraction < DONE)
            if report.fraction == DONE:
                self._engine.save_adapter(fresh / "adapter")
                seal(fresh / "adapter", self._maker)
        write_state(fresh, self._state)
        keep_checkpoint(fresh, self._checkpoint, self._maker)
        self._tell(
            {
                "kind": "stage",
                "report": report.as_document(),
                "checkpoint_path": str(self._checkpoint),
            }
        )
