"""A sweep's experiment and runs in MLflow: found again by their tags, or made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.errors import TrackingError
from orchestrator.records.mlflow.address import (
    ARTIFACTS_NAME,
    artifacts_address,
    is_database,
    is_own_database,
)
from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.held_run import HeldRun, create_run
from orchestrator.records.mlflow.storage_folder import copied_from, storage_identity
from orchestrator.records.mlflow.sweep_runs import SweepRuns
from orchestrator.records.mlflow.tags import (
    every_page,
    find_experiment,
    find_runs,
    is_deleted,
    only_one,
    own_tags,
    usual_name,
)
from orchestrator.records.redaction import redacted
from orchestrator.records.registry.in_mlflow import SeenInMlflow
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.stores.mirror import mirror_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

MARK = f"{TAG}journal_n"
"""The tag of a sweep's own run that holds the last line of the journal that is there whole."""


def _artifacts_of(uri: str, storage: Path, name: str) -> str | None:
    """Where a new experiment has its artifacts; None where it is not ours to say."""
    if not is_database(uri):
        return None  # a server chooses its own place; a bare database would the working folder
    mirror = mirror_of(storage)
    if mirror is None or is_own_database(uri, storage):
        return artifacts_address(storage, name)
    # A database for several machines names no folder of one of them.
    return f"{mirror.address}/{ARTIFACTS_NAME}/{name}"


def experiment_for(
    client: MlflowClient, uri: str, storage: Path, state: SweepState, say: Callable[[str], None]
) -> str:
    """The MLflow experiment of a sweep; made when missing.

    Args:
        client: From `connect`.
        uri: Where MLflow records.
        storage: The storage folder.
        state: The sweep's.
        say: Told when another storage folder has taken the name.

    Returns:
        Its identifier.

    Raises:
        TrackingError: If somebody deleted it.
    """
    name = state.name
    identity = storage_identity(uri, storage, make=True)
    found, free = find_experiment(
        client, name, identity, state.identity, copied_from=copied_from(storage)
    )
    tags, seen = own_tags(identity, name), SeenInMlflow(storage, name)
    if found is None:
        if free != name:
            say(
                f"MLflow has an experiment {name!r} of another storage folder; this one's is "
                f"named {free!r}"
            )
        place = _artifacts_of(uri, storage, free)
        wanted = seen.name_of("experiment", free)
        if client.get_experiment_by_name(wanted) is not None:
            wanted = free
        return client.create_experiment(wanted, artifact_location=place, tags=tags)
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"The MLflow experiment {found.name!r} at {redacted(uri)} was deleted. Bring "
            f"it back (`mlflow experiments restore -x {found.experiment_id}`), or remove it "
            "for good (`mlflow gc`)."
        )
    for key, value in tags.items():
        if key not in found.tags:
            client.set_experiment_tag(found.experiment_id, key, value)
    seen.named("experiment", usual_name(name, identity, found.name), found.name)
    return found.experiment_id


def runs_of(
    client: MlflowClient, experiment_id: str, sweep: SweepRuns, say: Callable[[str], None]
) -> dict[str | None, HeldRun]:
    """The runs of a sweep that are there; the sweep's own is made when missing.

    Args:
        client: From `connect`.
        experiment_id: From `experiment_for`.
        sweep: The sweep.
        say: Told which were deleted.

    Returns:
        By trial, None for the sweep's own.
    """
    found = {
        trial: only_one(client, runs)
        for trial, runs in find_runs(client, experiment_id, sweep.state.identity).items()
    }
    mark = int(found[None].data.tags.get(MARK, -1)) if None in found else -1
    held = {
        trial: HeldRun(run, dict(run.data.tags), set(run.data.params), run.info.status,
                     run.info.end_time, mark, is_deleted(run))
        for trial, run in found.items()
    }  # fmt: skip
    seen = SeenInMlflow(sweep.folder.parent, sweep.state.name)
    if None not in held:
        _end_abandoned(client, experiment_id, sweep, say)
        held[None] = create_run(client, experiment_id, sweep.parent)
        if seen.is_gone(run_named(sweep.identity, None)):
            client.delete_run(held[None].run.info.run_id)
            held[None].deleted = True
    named = {run_named(sweep.identity, trial): one.deleted for trial, one in held.items()}
    seen.found(
        [n for n, gone in named.items() if not gone], [n for n, gone in named.items() if gone]
    )
    deleted = sorted(str(name or "the sweep itself") for name, h in held.items() if h.deleted)
    if deleted:
        say(f"deleted in MLflow, and not made again: {', '.join(deleted)}")
    return held


def run_named(identity: str, trial: str | None) -> str:
    """A run as the registry names it; None: the sweep's own."""
    return f"run {identity}/{trial or ''}"


def _end_abandoned(
    client: MlflowClient, experiment_id: str, sweep: SweepRuns, say: Callable[[str], None]
) -> None:
    """End the runs of a sweep that was in this folder before, whose journal is gone.

    No journal will ever end them. A folder holds one sweep, so nothing runs them.
    """
    running = list(
        every_page(
            lambda token: client.search_runs(
                [experiment_id], "attributes.status = 'RUNNING'", max_results=1000, page_token=token
            )
        )
    )
    folder, own = str(sweep.folder), sweep.state.identity
    gone = {
        run.data.tags.get(f"{TAG}sweep")
        for run in running
        if run.data.tags.get(f"{TAG}folder") == folder
    } - {own, None}
    ended = [run for run in running if run.data.tags.get(f"{TAG}sweep") in gone]
    for run in ended:
        client.set_tag(run.info.run_id, f"{TAG}reason", "the sweep's journal is gone")
        client.set_terminated(run.info.run_id, "KILLED")
    if ended:
        say(f"ended in MLflow, because the journal that made them is gone: {len(ended)} run(s)")
