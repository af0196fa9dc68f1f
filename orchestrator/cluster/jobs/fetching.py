"""Fetching what a submitted sweep has found so far."""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path

from orchestrator.cluster.jobs.client import KIND, STORAGE, SWEEP, Job, Jobs
from orchestrator.cluster.jobs.errors import JobError
from orchestrator.cluster.jobs.parcel import from_lines, refuse_own_sweep, unpacked
from orchestrator.executors.ray_session import package_folders
from orchestrator.system.wording import cut

PATIENCE_SECONDS = 300.0
"""How long the cluster may take to give a sweep's files."""
_POLL_SECONDS = 0.5


def fetch(jobs: Jobs, job: Job, storage: Path) -> Path:
    """Copy a sweep's journal, report and champion to this machine.

    Args:
        jobs: The cluster's.
        job: A submission of the sweep, running or over.
        storage: The storage folder here.

    Returns:
        The sweep's folder here, a copy: commands that read sweeps take it, none goes on with it.

    Raises:
        JobError: If it cannot be fetched.
    """
    target = _place(storage, job.sweep)
    refuse_own_sweep(target)
    words = ["-m", "orchestrator.cluster.jobs.parcel", job.storage, job.sweep]
    with tempfile.TemporaryDirectory(prefix="orchestrate-") as scratch:
        asked = jobs.submit(
            words,
            submission=f"{job.submission}-results-{uuid.uuid4().hex[:8]}",
            folder=Path(scratch),
            modules=package_folders(),
            environment={},
            about={KIND: "results", SWEEP: job.sweep, STORAGE: job.storage},
        )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (status := jobs.status(asked)) in {"PENDING", "RUNNING"}:
        if time.monotonic() > deadline:
            jobs.stop(asked)
            raise JobError(
                f"The cluster did not give the files of {job.sweep} within {PATIENCE_SECONDS:.0f} "
                f"s; its job {asked} was stopped. Its head may be busy; try again."
            )
        time.sleep(_POLL_SECONDS)
    text = jobs.logs(asked)
    jobs.forget(asked)
    archive = from_lines(text)
    if archive is None:
        said = [line for line in text.splitlines() if line.startswith("orchestrate: ")]
        why = said[-1].removeprefix("orchestrate: ") if said else f"its job ended as {status}"
        raise JobError(f"The files of {job.sweep} could not be fetched: {why}")
    unpacked(archive, target, {"cluster": jobs.address, "submission": job.submission})
    return target


def _place(storage: Path, sweep: str) -> Path:
    """Where a sweep is put; its name is what the cluster says."""
    if sweep in {"", ".", ".."} or Path(sweep).name != sweep:
        raise JobError(
            f"The cluster calls a sweep {cut(repr(sweep))}, which is no folder's name, so nothing "
            "is fetched."
        )
    return storage / sweep
