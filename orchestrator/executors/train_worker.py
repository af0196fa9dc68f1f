"""The executor `train`, in each Ray Train worker of a trial: it learns with a DeepSpeed engine."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from curlora_kinds.adapters.table import parting_refuses
from orchestrator.data.prepared import PreparedData
from orchestrator.executors.trial_run import (
    adapted_model,
    check_engine_logits,
    fresh_heads,
    fresh_retention,
    learn_rest,
    tokenizer_for_texts,
)
from orchestrator.executors.worker_group import prepare_for_deepspeed
from orchestrator.loop.progress_file import ProgressFile
from orchestrator.loop.scoring import DivergedError
from orchestrator.loop.task_sequence import task_sequence
from orchestrator.loop.trial_checkpoints import SetAside, last_whole
from orchestrator.loop.trial_state import BASE_TRIAL, fresh_state, read_state, write_state
from orchestrator.loop.work_meter import Progress
from orchestrator.measures.accuracy_matrix import AccuracyMatrix
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.spec.experiment import Experiment, experiment_received
from orchestrator.system.seals import Maker, seal


def train_worker(config: dict[str, Any]) -> None:
    """What every Ray Train worker of a trial does.

    Args:
        config: `trial`, `experiment` (a document), `maker` (a document), `folder` (the sweep's) and
            `shared` (a list holding the reference of the `PreparedData`).
    """
    import ray
    import ray.train

    experiment = experiment_received(config["experiment"])
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

    from orchestrator.engines.workers import ALONE, Ranks

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

        from orchestrator.base.loading import partitioned
        from orchestrator.engines.deepspeed import DeepSpeedEngine
        from orchestrator.engines.sharded_base import zero3_config

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
        learn_rest(
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
