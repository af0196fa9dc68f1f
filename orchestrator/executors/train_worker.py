"""The executor `train`, in each Ray Train worker of a trial: it learns with a DeepSpeed engine."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curlora_kinds.adapters.table import sharding_refuses
from orchestrator.data.prepared import PreparedData
from orchestrator.executors.job import Job
from orchestrator.executors.messages import Failed, Ready, Reported, WorkSetAside, to_metrics
from orchestrator.executors.task_adapters import TaskAdapters
from orchestrator.executors.trial_run import (
    adapted_model,
    check_engine_logits,
    fresh_heads,
    fresh_retention,
    learn_rest,
    tokenizer_for_texts,
)
from orchestrator.executors.trial_shell import TrialShell
from orchestrator.executors.watching.signs_of_life import signs_of_life
from orchestrator.executors.worker_group import leave_out_quantisers, prepare_for_deepspeed
from orchestrator.loop.progress_file import ProgressFile
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.loop.trial_checkpoints import SetAside, furthest_first, last_whole
from orchestrator.loop.trial_state import fresh_state, read_state
from orchestrator.loop.work_meter import Progress
from orchestrator.records.stage_report import StageReport
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.system.durable import add_to_folder
from orchestrator.system.scratch import scratch_folder
from orchestrator.system.seals import Maker, seal

if TYPE_CHECKING:
    from ray.train import Checkpoint


def train_worker(config: dict[str, Any]) -> None:
    """What every Ray Train worker of a trial does.

    Args:
        config: `job`, see `Job.as_config`; `shared`, a list holding the reference of the
            `PreparedData`; and `desk`, the trial's actor.
    """
    import ray.train

    job = Job.from_config(config["job"])
    prepare_for_deepspeed(job.experiment)
    leave_out_quantisers(job.experiment)
    import torch

    torch.set_num_threads(job.experiment.resources.cpus_per_worker)
    first = ray.train.get_context().get_world_rank() == 0
    with signs_of_life(config["desk"]) if first else nullcontext():
        _run(job, config["shared"][0])


def _run(job: Job, shared: Any) -> None:
    """Run a trial, of which the prepared data are `shared`."""
    import ray
    import ray.train

    checkpoint, aside = _worker_checkpoint(job.folder, job.maker)
    for found in aside:
        _say_set_aside(found)
    trial = _WorkerTrial(job, ray.get(shared), checkpoint)
    ray.train.report(to_metrics(Ready(os.getpid(), trial.reports_so_far, checkpoint)))
    try:
        trial.run()
    except DivergedError as error:
        # The loss is the same on every worker, so all of them come here; a restart would only
        # diverge again.
        ray.train.report(to_metrics(Failed(str(error))))


def _say_set_aside(found: SetAside) -> None:
    """Tell what is not used; a collective, as every report to Ray Train."""
    import ray.train

    ray.train.report(to_metrics(WorkSetAside.of(found)))


def _worker_checkpoint(
    sweep_folder: SweepFolder, maker: Maker
) -> tuple[Path | None, list[SetAside]]:
    """Where a trial goes on from, and what was set aside; the same on all of its workers.

    Ray Train knows which checkpoint is the last, but not whether it is whole.

    Args:
        sweep_folder: The sweep's folder.
        maker: The trial.

    Returns:
        As `last_whole`.
    """
    import ray.train

    from orchestrator.engines.workers import ALONE, Workers

    context = ray.train.get_context()
    workers = Workers.of_group() if context.get_world_size() > 1 else ALONE
    found: tuple[Path | None, list[SetAside]] = None, []
    if workers.first:
        found = run_checkpoint(sweep_folder, maker)
    return workers.broadcast(found)


def run_checkpoint(sweep_folder: SweepFolder, maker: Maker) -> tuple[Path | None, list[SetAside]]:
    """The last whole checkpoint that a trial's own workers have left; see `last_whole`."""
    # Ray Train removes old ones by itself, and wants them to be there.
    folder = sweep_folder.work(maker.trial)
    names = [path for path in folder.glob("checkpoint_*") if ".set-aside-" not in path.name]
    # Beside them lies what a trial that goes on from another one begins with.
    beginning = sweep_folder.checkpoint(maker.trial)
    return last_whole([*furthest_first(names), beginning], maker, leave=True)


class _RayTrainCheckpoints:
    """Checkpoints that Ray Train keeps; each worker adds its part."""

    def __init__(self, maker: Maker, work: Path) -> None:
        """Name the place.

        Args:
            maker: What they are sealed with.
            work: The trial's folder on the sweep's storage, where Ray Train keeps them.
        """
        import ray.train

        context = ray.train.get_context()
        self.part, self._parts = context.get_world_rank(), context.get_world_size()
        self._maker, self._work = maker, work

    def fresh(self) -> Path:
        return scratch_folder("checkpoint")

    def keep(self, fresh: Path, report: StageReport) -> None:
        """Report to Ray Train, which waits for all workers and puts their parts together."""
        import ray.train

        seal(fresh, self._maker, part=self.part, parts=self._parts)
        ray.train.report(
            to_metrics(Reported(report)),
            checkpoint=ray.train.Checkpoint.from_directory(str(fresh)),
            checkpoint_upload_fn=self._upload,
        )
        shutil.rmtree(fresh)

    def tell(self, report: StageReport) -> None:
        """Tell a report to which no checkpoint belongs; a collective."""
        import ray.train

        ray.train.report(to_metrics(Reported(report)))

    def _upload(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """Put this worker's part into its place; Ray Train's own copy waits for no disk."""
        import ray.train

        add_to_folder(Path(checkpoint.path), self._work / name)
        return ray.train.Checkpoint.from_directory(str(self._work / name))


class _WorkerTrial:
    """A trial in one of its Ray Train workers: model, engine, and what it reports."""

    def __init__(self, job: Job, data: PreparedData, checkpoint: Path | None) -> None:
        import torch

        from orchestrator.base.loading import partitioned
        from orchestrator.engines.deepspeed import DeepSpeedEngine
        from orchestrator.engines.sharded_base import zero3_config

        experiment = job.experiment
        self._name = name = job.trial
        self._progress = ProgressFile(job.folder.path, name)
        self._sequence = task_sequence(experiment, data)
        state = read_state(checkpoint) if checkpoint else fresh_state(self._sequence)
        checkpoints = _RayTrainCheckpoints(job.maker, job.folder.work(name))
        adapters, first = TaskAdapters(job.folder, name, experiment), checkpoints.part == 0
        self._shared, self._first = job.shared(_say_set_aside), first
        self._shell = TrialShell(
            job.maker, state, checkpoints, adapters, first=first, shared=self._shared
        )
        on_gpu = experiment.resources.gpus_per_worker > 0
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu"
        zero3 = zero3_config(experiment.training)
        refused = sharding_refuses(experiment.method.adapter.kind, None if zero3 is None else 3)
        if refused and name != BASE_TRIAL:  # a pool could not hold it, so it came here after all
            raise ValueError(f"`method.adapter`: {refused}")
        with partitioned(zero3):
            self._model = adapted_model(name, experiment, data, device)
        self._engine = DeepSpeedEngine(
            self._model,
            experiment.training,
            batch_tokens=experiment.data.batch_tokens,
            weights=None if name == BASE_TRIAL else checkpoint,
            heads=None if name == BASE_TRIAL else fresh_heads(self._sequence, self._model),
            tokenizer=tokenizer_for_texts(experiment, self._sequence),
            retention=None if name == BASE_TRIAL else fresh_retention(experiment),
        )
        check_engine_logits(self._engine, self._model)
        inside = state.start.step > 0
        if checkpoint is not None and name != BASE_TRIAL:
            self._engine.load_retention(checkpoint, inside=inside)
        if checkpoint is not None and inside:
            self._engine.load_optimizer(checkpoint)

    @property
    def reports_so_far(self) -> tuple[StageReport, ...]:
        """What was reported up to the checkpoint that it goes on from."""
        return self._shell.state.reports

    def run(self) -> None:
        """Learn what is left of the sequence."""
        from orchestrator.engines.workers import Workers

        share = Workers.of_group().broadcast
        learn_rest(
            self._name,
            self._model,
            self._engine,
            self._sequence,
            self._shell.state,
            lambda report, matrix: self._shell.reported(report, matrix, self._engine),
            self._on_progress,
            lambda index: self._shared.take(index, self._engine, first=self._first, share=share),
        )

    def _on_progress(self, progress: Progress) -> None:
        import ray.train

        if ray.train.get_context().get_world_rank() == 0:
            self._progress.write(progress)
