"""The executor `train`, in the Ray Tune trial: it starts Ray Train workers and relays reports."""

from __future__ import annotations

import traceback
from typing import Any

from orchestrator.executors.job import Job
from orchestrator.executors.messages import Failed, Finished, WorkSetAside, to_metrics
from orchestrator.executors.train_worker import run_checkpoint, train_worker
from orchestrator.executors.worker_group import worker_group
from orchestrator.loop.trial_state import read_state

_RAY_NOTE = "checkpoint_manager_snapshot.json"


def trial_function(job: Job, shared: list[Any] | None = None) -> None:
    """One trial: starts its Ray Train workers and passes their reports on to Ray Tune.

    A failure does not raise: it is reported, with the path of its log, and the sweep goes on.

    Args:
        job: The trial.
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

    resources = job.experiment.resources
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job.as_config(), "shared": shared},
        **worker_group(resources, job.avoid),
        run_config=RunConfig(
            name=job.trial,
            storage_path=str(job.folder.ray),
            failure_config=FailureConfig(
                max_failures=resources.max_failures, controller_failure_limit=3
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[TuneReportCallback()],
        ),
    )
    # Which checkpoint is the last is found by the workers; a damaged note of it must not stop them.
    (job.folder.work(job.trial) / _RAY_NOTE).unlink(missing_ok=True)
    try:
        trainer.fit()
    except WorkerGroupError as error:
        tune.report(to_metrics(_failure(job, error, *error.worker_failures.values())))
        return
    except ControllerError as error:
        tune.report(to_metrics(_failure(job, error)))
        return
    # A report can be overtaken by the end of the trial, so the last message repeats them all.
    folder, aside = run_checkpoint(job.folder, job.maker)
    for found in aside:
        tune.report(to_metrics(WorkSetAside.of(found)))
    if folder is not None:
        tune.report(to_metrics(Finished(read_state(folder).reports, folder)))


def _failure(job: Job, *errors: BaseException) -> Failed:
    """The message of a failed trial: its reason in one line, and the path of its log."""
    log = job.folder.log(job.trial)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for error in errors:
            file.write("".join(traceback.format_exception(error)) + "\n")
    last = str(errors[-1]).strip().splitlines()
    return Failed(last[-1] if last else repr(errors[-1]), log=str(log))
