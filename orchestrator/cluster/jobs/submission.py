"""Submitting a sweep, so that it goes on wherever its user is."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.jobs.client import KIND, STORAGE, SWEEP, Jobs
from orchestrator.cluster.jobs.luggage import EXPERIMENT_FILE, pack
from orchestrator.executors.ray_session import package_folders
from orchestrator.spec.load import LoadedExperiment

STOP_SECONDS = 120
"""How long a job that is asked to end has for it, before Ray kills it."""


@dataclass(frozen=True)
class Submitted:
    """What became of a submission."""

    submission: str
    """The job's name."""
    sweep: str
    new: bool
    """False where the same sweep was at work already, and nothing was begun."""
    again: bool
    """Whether an earlier job of the sweep is over, which this one goes on from."""


def submit(
    jobs: Jobs, loaded: LoadedExperiment, *, kind: str = "sweep", options: Sequence[str] = ()
) -> Submitted:
    """Let a cluster run a sweep, or go on with it; what is at work already is left alone.

    Args:
        jobs: The cluster's.
        loaded: The experiment and its tasks.
        kind: `sweep` or `run`.
        options: More words for that command.

    Returns:
        The job.

    Raises:
        JobError: If it cannot run there.
    """
    experiment = loaded.experiment
    sweep = experiment.name if kind == "sweep" else f"{experiment.name}-run"
    earlier = [job for job in jobs.every(sweep) if job.storage == experiment.storage]
    at_work = [job for job in earlier if not job.over]
    if at_work:
        return Submitted(at_work[-1].submission, sweep, new=False, again=False)
    # Two storages may each have a sweep of this name.
    place = hashlib.sha256(experiment.storage.encode()).hexdigest()[:6]
    submission = f"{sweep}-{place}-{len(earlier) + 1}"
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
        folder = Path(scratch)
        pack(loaded, folder)
        words = ["-m", "orchestrator", kind, EXPERIMENT_FILE, "--address", "auto"]
        taken = jobs.submit(
            [*words, *options],
            submission=submission,
            folder=folder,
            modules=package_folders(),
            environment=_environment(),
            about={KIND: "sweep", SWEEP: sweep, STORAGE: experiment.storage},
        )
    return Submitted(taken, sweep, new=True, again=bool(earlier))


def _environment() -> dict[str, str]:
    return {
        # The sweep joins the cluster with settings of its own, beside those of the job.
        "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
        # As Ctrl-C does: what is running is left in order.
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        "PYTHONUNBUFFERED": "1",
    }
