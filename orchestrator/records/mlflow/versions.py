"""The versions of a registered model: one for each adapter that is or was champion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.cards.card import adapter_of
from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.errors import AdapterFolderError, MissingRunError, TrackingError
from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.models import log_trial_model
from orchestrator.records.mlflow.tags import find_experiment, find_runs, is_deleted
from orchestrator.records.mlflow.version_tags import (
    TEST_TAG,
    test_scores,
    verdict_tags,
    version_tags,
)
from orchestrator.records.redaction import redacted
from orchestrator.records.sweep_folder import SweepFolder
from orchestrator.records.sweep_state import SweepState

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


def version_of(
    client: MlflowClient, model: str, key: AdapterKey, reason: str | None, *,
    uri: str, identity: str, folder: Path, state: SweepState,
) -> str:  # fmt: skip
    """The version of an adapter, made when missing.

    Args:
        client: From `connect`.
        model: The registered model, which is there.
        key: Which adapter.
        reason: Why it was promoted; None: the verdict of its sweep chose it.
        uri: Where MLflow records, for messages.
        identity: From `storage_identity`.
        folder: The folder of the adapter's sweep.
        state: That sweep.

    Returns:
        Its number.

    Raises:
        TrackingError: If the trial's run is not there, or was deleted.
        AdapterFolderError: If no adapter was kept.
    """
    run, parent = _runs(client, state, key.trial, identity, uri, folder)
    learnt = key.learnt or len(state.tasks)
    chosen = {f"{TAG}reason": reason} if reason is not None else verdict_tags(state.last_verdict)
    known = _known_version(client, model, key, last=learnt == len(state.tasks))
    if known is not None:
        # Another verdict may have chosen it again, and its test scores have been read since.
        test = test_scores(state, key.trial) if learnt == len(state.tasks) else None
        wanted = chosen | {TEST_TAG: json.dumps(test)}
        for name, value in wanted.items():
            if known.tags.get(name) != value:
                client.set_model_version_tag(known.name, str(known.version), name, value)
        return str(known.version)
    place, _ = adapter_of(state, state.trial(key.trial), learnt)
    if not place:
        raise AdapterFolderError(f"The journal of {folder} names no adapter of {key.reference!r}.")
    model_id = log_trial_model(
        client, run, adapter_folder=SweepFolder(folder).within(place), state=state,
        trial=key.trial, learnt=learnt,
    )  # fmt: skip
    yaml_uri = f"runs:/{parent.info.run_id}/experiment.yaml"
    made = client.create_model_version(
        model,
        # MLflow would look up `models:/<id>` at its global address, which is not ours.
        source=client.get_logged_model(model_id).artifact_location,
        run_id=run.info.run_id,
        model_id=model_id,
        tags=version_tags(state, key.trial, folder, learnt)
        | chosen
        | {f"{TAG}experiment_yaml": yaml_uri},
        description=f"{key.reference} of {folder}; its experiment file: {yaml_uri}",
    )
    return str(made.version)


def _known_version(
    client: MlflowClient, model: str, key: AdapterKey, *, last: bool
) -> ModelVersion | None:
    wanted = (
        f"name = '{model}' AND tags.`{TAG}sweep` = '{key.sweep_id}' "
        f"AND tags.`{TAG}trial` = '{key.trial}'"
    )
    for found in client.search_model_versions(wanted):
        # Earlier versions registered adapters after the last task alone, and did not say so.
        learnt = found.tags.get(f"{TAG}learnt")
        if learnt == str(key.learnt) or (learnt is None and last):
            return found
    return None


def _runs(
    client: MlflowClient, state: SweepState, trial: str, identity: str, uri: str, folder: Path
) -> tuple[Run, Run]:
    """The runs of a trial and of its sweep; an error when they are missing or were deleted."""
    experiment, _ = find_experiment(client, state.name, identity, state.identity)
    runs = find_runs(client, experiment.experiment_id, state.identity) if experiment else {}
    if trial not in runs or None not in runs:
        raise MissingRunError(
            f"MLflow at {redacted(uri)} does not hold the run of the champion {trial!r} of "
            f"{folder}. Bring it up to date from the journal first: `orchestrate report "
            f"{folder.name}`."
        )
    for run in (runs[trial][0], runs[None][0]):
        if is_deleted(run):
            raise TrackingError(
                f"The MLflow run {run.info.run_name!r} of {folder} was deleted, and its champion "
                "cannot be registered without it. Bring it back (`mlflow runs restore --run-id "
                f"{run.info.run_id}`), then give the same command."
            )
    return runs[trial][0], runs[None][0]
