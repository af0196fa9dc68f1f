"""The door to the job server of a Ray cluster."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.jobs.errors import JobError
from orchestrator.executors.ray_session import bringing, error_line, token_for
from orchestrator.records.redaction import redacted
from orchestrator.system.environment import changed
from orchestrator.system.ray_environment import without_redirects, without_token

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SWEEP, STORAGE, KIND = "orchestrator_sweep", "orchestrator_storage", "orchestrator_kind"
"""What a job is told apart by, in its metadata."""
_NODES_PYTHON = (
    "raylet=$(sed 's/.*) //' /proc/$PPID/stat | cut -d' ' -f2); "
    "python=$(tr '\\0' '\\n' < /proc/$raylet/cmdline"
    " | sed -n 's/^--python_worker_command=\\([^ ]*\\) .*/\\1/p'); "
    "exec ${python:-python} "
)
"""The shell of a job has Ray's `PATH`, in which the environment that Ray runs in may be missing. So
it asks with which Python the raylet, its parent's parent, starts workers."""
_OVER = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """One submission of a sweep."""

    submission: str
    sweep: str
    storage: str
    status: str
    """`PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`, as Ray says."""
    message: str
    started: float | None
    """Seconds since the epoch."""
    ended: float | None

    @property
    def over(self) -> bool:
        """Whether it will do nothing more."""
        return self.status in _OVER


class Jobs:
    """The jobs of a cluster that are sweeps."""

    def __init__(self, address: str) -> None:
        """Reach the cluster.

        Args:
            address: Of its dashboard, `http://HEAD:8265`; or that of the cluster, or `auto`, on one
                of its nodes.

        Raises:
            JobError: If nobody answers there.
        """
        from ray.job_submission import JobSubmissionClient

        self.address = redacted(address)
        # The variables of another cluster would win over the address.
        with changed(without_redirects(address)):
            self._token = token_for(address)
            try:
                with bringing(self._token):
                    self._client: JobSubmissionClient = JobSubmissionClient(address)
            except Exception as error:  # noqa: BLE001 (Ray raises bare ones)
                why = (self._token and without_token()) or redacted(error_line(error))
                raise JobError(
                    f"No job server of a Ray cluster answers at {self.address}: {why}. Give the "
                    "address of its dashboard, such as http://127.0.0.1:8265 after `ray dashboard "
                    "cluster.yaml`."
                ) from None

    def every(self, sweep: str | None = None) -> list[Job]:
        """The submissions of all sweeps, or of one, the earliest first."""
        found = [_job(details) for details in self._asked(self._client.list_jobs)]
        mine = [job for job in found if job is not None and sweep in {None, job.sweep}]
        return sorted(mine, key=lambda job: (job.started or float("inf"), job.submission))

    def last(self, sweep: str) -> Job:
        """The last submission of a sweep.

        Args:
            sweep: Its name, or that of a job.

        Returns:
            The submission.

        Raises:
            JobError: If there is none.
        """
        every = self.every()
        found = [job for job in every if sweep in {job.sweep, job.submission}]
        if not found:
            names = sorted({job.sweep for job in every})
            raise JobError(
                f"No sweep {sweep!r} was submitted to {self.address}. "
                f"Submitted there: {', '.join(names) or 'none'}."
            )
        return found[-1]

    def submit(
        self,
        words: Sequence[str],
        *,
        submission: str,
        folder: Path,
        modules: Sequence[Path],
        environment: Mapping[str, str],
        about: Mapping[str, str],
    ) -> str:
        """Begin a job; see `JobSubmissionClient.submit_job`.

        Args:
            words: What the Python of the cluster's nodes is told.
            submission: The job's name.
            folder: Its working folder is a copy of this one.
            modules: Packages that it can import.
            environment: Variables that it has.
            about: Its metadata.

        Returns:
            The job's name.
        """
        return self._asked(
            lambda: self._client.submit_job(
                entrypoint=_NODES_PYTHON + shlex.join(words),
                submission_id=submission,
                runtime_env={
                    "working_dir": str(folder),
                    "py_modules": [str(path) for path in modules],
                    "env_vars": dict(environment),
                    "excludes": ["**/__pycache__"],
                },
                metadata=dict(about),
            )
        )

    def status(self, submission: str) -> str:
        """How a job is."""
        return str(self._asked(lambda: self._client.get_job_status(submission)).value)

    def logs(self, submission: str) -> str:
        """All that a job has written so far."""
        return self._asked(lambda: self._client.get_job_logs(submission))

    async def follow(self, submission: str) -> AsyncIterator[str]:
        """What a job has written and will write, until it is over."""
        with bringing(self._token):
            async for text in self._client.tail_job_logs(submission):
                yield text

    def stop(self, submission: str) -> None:
        """Ask a job to end; it is given time to leave things in order."""
        self._asked(lambda: self._client.stop_job(submission))

    def forget(self, submission: str) -> None:
        """Let the cluster forget a job that is over."""
        self._asked(lambda: self._client.delete_job(submission))

    def _asked(self, ask: Any) -> Any:
        try:
            with bringing(self._token):
                return ask()
        except Exception as error:  # noqa: BLE001 (Ray raises bare ones)
            raise JobError(
                f"The job server at {self.address} did not do what was asked: "
                f"{redacted(error_line(error))}."
            ) from None


def _job(details: Any) -> Job | None:
    """What Ray says of a job; None where it is no sweep of ours."""
    about = details.metadata or {}
    if about.get(KIND) != "sweep" or details.submission_id is None:
        return None
    return Job(
        submission=str(details.submission_id),
        sweep=about.get(SWEEP, ""),
        storage=about.get(STORAGE, ""),
        status=str(getattr(details.status, "value", details.status)),
        message=" ".join(str(details.message or "").split()),
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if not details.end_time else details.end_time / 1000,
    )
