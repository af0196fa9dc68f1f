"""What MLflow says must stay, and moving runs to its trash."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from orchestrator.records.mlflow.client import TAG, connect, mlflow_errors
from orchestrator.records.mlflow.storage_folder import storage_identity
from orchestrator.records.mlflow.tags import every_page, find_experiment, find_runs, is_deleted
from orchestrator.records.sweep_state import SweepState


def registered_trials(uri: str) -> set[tuple[str, str]]:
    """The trials that a version of a registered model was made from, aliased or not.

    Args:
        uri: Where MLflow records.

    Returns:
        Pairs of a sweep's identity and a trial.

    Raises:
        TrackingError: If MLflow cannot be used.
    """
    with mlflow_errors(uri):
        client = connect(uri)
        versions = every_page(
            lambda token: client.search_model_versions(max_results=1000, page_token=token)
        )
        found = [(v.tags.get(f"{TAG}sweep"), v.tags.get(f"{TAG}trial")) for v in versions]
    return {(str(sweep), str(trial)) for sweep, trial in found if sweep and trial}


def trash_runs(uri: str, folder: Path, state: SweepState, trials: Collection[str]) -> int:
    """Mark the runs of some trials as deleted, as MLflow's own page does; `mlflow gc` empties it.

    Args:
        uri: Where MLflow records.
        folder: The sweep's folder.
        state: The sweep.
        trials: Whose.

    Returns:
        How many were.

    Raises:
        TrackingError: If MLflow cannot be used.
    """
    with mlflow_errors(uri, folder):
        client, identity = connect(uri), storage_identity(uri, folder.parent)
        experiment, _ = find_experiment(client, state.name, identity, state.identity)
        runs = {} if experiment is None else find_runs(
            client, experiment.experiment_id, state.identity
        )  # fmt: skip
        chosen = [
            run
            for trial in trials
            for run in runs.get(trial, ())
            if not is_deleted(run)
        ]  # fmt: skip
        for run in chosen:
            client.delete_run(run.info.run_id)
    return len(chosen)
