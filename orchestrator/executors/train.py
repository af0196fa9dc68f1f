"""The executor `train`: each trial has Ray Train workers of its own.

A light actor starts them and holds the desk to which their reports come. It is ended together with
them: Ray ends a run of Ray Train with the process that began it.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import ray
from ray.train import UserCallback

from orchestrator.executors.cluster_checks import groups_refused
from orchestrator.executors.desk import Desk, Heard
from orchestrator.executors.head_actor import head_actor
from orchestrator.executors.job import Job
from orchestrator.executors.messages import (
    Failed,
    Finished,
    Message,
    Todo,
    WorkSetAside,
    from_metrics,
)
from orchestrator.executors.train_worker import run_checkpoint, train_worker
from orchestrator.executors.watching.shared_end import SharedEnd
from orchestrator.executors.worker_group import worker_group
from orchestrator.loop.trial_state import read_state
from orchestrator.system.pulse import Pulse

if TYPE_CHECKING:
    from ray.train import Checkpoint

_RAY_NOTE = "checkpoint_manager_snapshot.json"
MAIL = {"mail": 2, "reports": 1, "signs": 1}
"""Threads that answer while a trial runs; reports come one by one, in order."""


class TrainTrial:
    """A trial with Ray Train workers of its own, as an actor."""

    def __init__(self) -> None:
        """Begin without workers."""
        self._desk = Desk()

    def run(self, job: Job, shared: list[Any]) -> tuple[Message, ...]:
        """Start the workers and wait for their end.

        A failure does not raise: it is said, with the path of its log, and the sweep goes on.

        Args:
            job: The trial.
            shared: A list holding the reference of the `PreparedData`.

        Returns:
            What there is to say at the end.
        """
        from ray.train import (
            CheckpointConfig,
            ControllerError,
            FailureConfig,
            RunConfig,
            WorkerGroupError,
        )
        from ray.train.torch import TorchTrainer

        refused = groups_refused(job.folder.path)
        if refused is not None:
            return (Failed(refused),)
        resources = job.experiment.resources
        here = ray.get_runtime_context().current_actor
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"job": job.as_config(), "shared": shared, "desk": here},
            **worker_group(resources, job.avoid),
            run_config=RunConfig(
                name=job.trial,
                storage_path=str(job.folder.ray),
                failure_config=FailureConfig(
                    max_failures=resources.max_failures, controller_failure_limit=3
                ),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                callbacks=[_ReportsTo(here, job.trial), SharedEnd()],
            ),
        )
        # Which checkpoint is the last is found by the workers; a damaged note must not stop them.
        (job.folder.work(job.trial) / _RAY_NOTE).unlink(missing_ok=True)
        try:
            trainer.fit()
        except WorkerGroupError as error:
            return (_failure(job, error, *error.worker_failures.values()),)
        except ControllerError as error:
            return (_failure(job, error),)
        # A report can be overtaken by the end of the trial, so the last message repeats them all.
        folder, aside = run_checkpoint(job.folder, job.maker)
        said: list[Message] = [WorkSetAside.of(found) for found in aside]
        if folder is not None:
            said.append(Finished(read_state(folder).reports, folder))
        return tuple(said)

    @ray.method(concurrency_group="reports")
    def say(self, trial: str, message: Message) -> None:
        """Take in what the workers have reported."""
        self._desk.say(trial, message)

    @ray.method(concurrency_group="signs")
    def beat(self, found: Pulse) -> None:
        """A sign of life of the first worker, and how it stands with its work."""
        self._desk.beat(found)

    @ray.method(concurrency_group="mail")
    def swap(self) -> Heard:
        """Meet the driver."""
        return self._desk.swap(Todo(), "")


class _ReportsTo(UserCallback):
    """Passes what the first worker reports on to the trial's desk; in Ray Train's controller."""

    def __init__(self, actor: Any, trial: str) -> None:
        self._actor, self._trial = actor, trial

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        del run_context
        said = dict(metrics[0])
        if checkpoint is not None:
            said["checkpoint_path"] = checkpoint.path
        message = from_metrics(said)
        if message is not None:
            self._actor.say.remote(self._trial, message)


def train_trial() -> Any:
    """Start the actor of a trial; give its handle."""
    return head_actor(TrainTrial, MAIL)


def _failure(job: Job, *errors: BaseException) -> Failed:
    """The message of a failed trial: its reason in one line, and the path of its log."""
    log = job.folder.log(job.trial)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        for error in errors:
            file.write("".join(traceback.format_exception(error)) + "\n")
    last = str(errors[-1]).strip().splitlines()
    return Failed(last[-1] if last else repr(errors[-1]), log=str(log))
