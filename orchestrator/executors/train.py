"""The executor `train`, in the Ray Tune trial: it starts Ray Train workers and relays reports."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.executors.train_worker import run_checkpoint, train_worker
from orchestrator.executors.worker_group import worker_group
from orchestrator.loop.trial_state import read_state
from orchestrator.spec.experiment import experiment_received
from orchestrator.system.seals import Maker

_RAY_NOTE = "checkpoint_manager_snapshot.json"


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

    experiment = experiment_received(config["experiment"])
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
