"""Running trials one after another in this process (`executor: local`)."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from orchestrator.executors.job import Job
from orchestrator.executors.local import run_locally
from orchestrator.executors.messages import Failed, MessageHere
from orchestrator.sweep.driver import Driver
from orchestrator.sweep.mlflow_sync import MlflowSync


class _EndedEarlyError(Exception):
    """Ends a trial that is stopped early, or whose sweep has spent too much."""


def run_trials_locally(
    driver: Driver, projection: MlflowSync, raise_if_interrupted: Callable[[], None]
) -> None:
    """Run what is missing, one trial after another."""
    while isinstance(job := driver.next_job(), Job):
        driver.starting(job.trial)
        _run_one_locally(driver, job, raise_if_interrupted)
        driver.ended(job.trial, error=False)
        projection.catch_up()
    driver.end_over_budget()


def _run_one_locally(driver: Driver, job: Job, raise_if_interrupted: Callable[[], None]) -> None:
    """Run a trial in this process; whatever fails in it, the sweep goes on."""
    own: list[BaseException] = []

    def tell(message: MessageHere) -> None:
        raise_if_interrupted()
        try:
            driver.hear(job.trial, message)
        except BaseException as error:
            own.append(error)  # the driver's failure, not the trial's
            raise
        if driver.over_budget() or driver.stops(job.trial):
            raise _EndedEarlyError

    try:
        run_locally(job, driver.data, tell)
    except _EndedEarlyError:
        return  # it is stopped at its last report
    except Exception as error:
        if own:
            raise
        said = str(error).strip().splitlines()
        reason, details = said[-1] if said else repr(error), traceback.format_exception(error)
        driver.hear(job.trial, Failed(reason, "".join(details)))
