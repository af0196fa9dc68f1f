"""Running trials one after another in this process (`executor: local`)."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from orchestrator.executors.local import run_locally
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.mlflow_sync import MlflowSync


def run_trials_locally(
    driver: Driver, projection: MlflowSync, raise_if_interrupted: Callable[[], None]
) -> None:
    """Run what is missing, one trial after another."""
    number = 0
    while isinstance(job := driver.next_job(str(number)), dict):
        name = job["trial"]
        driver.observer.progress(name, {"phase": "starting"})
        _run_one_locally(driver, name, raise_if_interrupted)
        driver.ended(str(number), error=False)
        projection.catch_up()
        number += 1


def _run_one_locally(driver: Driver, name: str, raise_if_interrupted: Callable[[], None]) -> None:
    """Run a trial in this process; whatever fails in it, the sweep goes on."""
    own: list[BaseException] = []

    def tell(message: dict[str, Any]) -> None:
        raise_if_interrupted()
        try:
            driver.hear_trial(name, message)
        except BaseException as error:
            own.append(error)  # the driver's failure, not the trial's
            raise

    folder = driver.folder.work(name)
    try:
        run_locally(
            name, driver.trial_experiment(name), driver.data, folder, driver.maker(name), tell
        )
    except Exception as error:
        if own:
            raise
        said = str(error).strip().splitlines()
        driver.hear_trial(
            name,
            {
                "kind": "failed",
                "reason": said[-1] if said else repr(error),
                "details": "".join(traceback.format_exception(error)),
            },
        )
