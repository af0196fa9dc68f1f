"""The champion of a sweep in MLflow's model registry: its version, and the alias `champion`.

Everything here can be repeated after a crash: what MLflow holds already is found by its tags and
used again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.records.errors import TrackingError
from orchestrator.records.events import SweepEnded
from orchestrator.records.mlflow.client import TAG, connect, mlflow_errors
from orchestrator.records.mlflow.models import log_trial_model
from orchestrator.records.mlflow.storage_folder import storage_identity
from orchestrator.records.mlflow.tags import (
    find_experiment,
    find_model,
    find_runs,
    is_deleted,
    own_tags,
)
from orchestrator.records.mlflow.version_tags import (
    DECIDED_TAG,
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
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel


CHAMPION_ALIAS = "champion"


@dataclass(frozen=True)
class Registration:
    """What became of a sweep's champion in the registry."""

    model: str
    """The registered model: the sweep's name."""
    version: str | None
    """The champion's version; null when the sweep has no champion."""
    text: str
    """What was done, in sentences for people."""


def register_champion(
    uri: str, *, sweep_folder: Path, state: SweepState, just_decided: bool = False
) -> Registration:
    """Register the champion's model under the sweep's name and give it the alias `champion`.

    The same champion always gets the same version. The alias is never taken from the champion of
    a sweep of the same name that was decided later, nor from a version that somebody else gave it
    to, and stays where it is without a champion.

    Args:
        uri: Where MLflow records; the sweep must have been projected before.
        sweep_folder: The sweep's folder.
        state: The sweep, with its verdict.
        just_decided: The verdict is of this moment, so that it is the latest whatever clocks say.

    Returns:
        The version, and what was done.

    Raises:
        TrackingError: If MLflow cannot be used, or does not hold the champion's run.
    """
    verdict, sweep = state.last_verdict, state.name
    with mlflow_errors(uri, sweep_folder):
        client, identity = connect(uri), storage_identity(uri, sweep_folder.parent, make=True)
        model, name = find_model(client, sweep, identity)
        alias = _aliased(client, model)
        if verdict is None or verdict.champion is None:
            why = verdict.reason if verdict else "the sweep has not ended"
            kept = (
                f" The alias `{CHAMPION_ALIAS}` of the model {name!r} still names version "
                f"{alias.version}, of an earlier sweep; it was not moved."
                if alias
                else ""
            )
            return Registration(name, None, f"No champion was registered: {why}.{kept}")
        trial = verdict.champion
        run, parent = _champion_runs(client, state, trial, identity, uri, sweep_folder)
        model = _owned_model(client, name, model, own_tags(identity, sweep))
        version = _known_version(client, name, state.identity, trial)
        if version is None:
            version = _new_version(client, name, run, parent,
                                   sweep_folder=sweep_folder, state=state, trial=trial)  # fmt: skip
        else:
            version = _decided_again(client, version, verdict, test_scores(state, trial))
        text = _move_alias(client, model, version, alias, latest=just_decided)
        return Registration(name, str(version.version), text)


def _owned_model(
    client: MlflowClient, name: str, model: RegisteredModel | None, tags: dict[str, str]
) -> RegisteredModel:
    """The registered model, made when missing, with the tags that say whose it is."""
    if model is None:
        client.create_registered_model(name, tags, "Champions of the sweep of this name.")
    for key, value in tags.items():
        if model is not None and key not in model.tags:
            client.set_registered_model_tag(name, key, value)
    return client.get_registered_model(name)


def _champion_runs(
    client: MlflowClient, state: SweepState, trial: str, identity: str, uri: str, folder: Path
) -> tuple[Run, Run]:
    """The runs of a champion and of its sweep; an error when they are missing or were deleted."""
    experiment, _ = find_experiment(client, state.name, identity, state.identity)
    runs = find_runs(client, experiment.experiment_id, state.identity) if experiment else {}
    if trial not in runs or None not in runs:
        raise TrackingError(
            f"MLflow at {redacted(uri)} does not hold the run of the champion {trial!r} of "
            f"{folder}. Bring it up to date from the journal first."
        )
    for run in (runs[trial][0], runs[None][0]):
        if is_deleted(run):
            raise TrackingError(
                f"The MLflow run {run.info.run_name!r} of {folder} was deleted, and its champion "
                "cannot be registered without it. Bring it back (`mlflow runs restore --run-id "
                f"{run.info.run_id}`), then give the same command."
            )
    return runs[trial][0], runs[None][0]


def _aliased(client: MlflowClient, model: RegisteredModel | None) -> ModelVersion | None:
    version = model.aliases.get(CHAMPION_ALIAS) if model is not None else None
    return client.get_model_version(model.name, str(version)) if model and version else None


def _known_version(client: MlflowClient, name: str, sweep: str, trial: str) -> ModelVersion | None:
    wanted = f"name = '{name}' AND tags.`{TAG}sweep` = '{sweep}' AND tags.`{TAG}trial` = '{trial}'"
    return next(iter(client.search_model_versions(wanted)), None)


def _decided_again(
    client: MlflowClient, version: ModelVersion, verdict: SweepEnded, test: Mapping[str, Any] | None
) -> ModelVersion:
    """Bring a version's tags up to date.

    A champion may come back after another trial of its sweep was champion for a while, and its test
    scores may be read once it has been registered.

    Args:
        client: From `connect`.
        version: The version.
        verdict: The one that names its trial.
        test: What `test_scores` gave.

    Returns:
        The version with them.
    """
    wanted = verdict_tags(verdict) | {TEST_TAG: json.dumps(test)}
    for key, value in wanted.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, str(version.version), key, value)
    return client.get_model_version(version.name, str(version.version))


def _new_version(
    client: MlflowClient, name: str, run: Run, parent: Run, *,
    sweep_folder: Path, state: SweepState, trial: str,
) -> ModelVersion:  # fmt: skip
    """A version that holds a trial's model."""
    kept = state.trial(trial).adapter
    if not kept:
        raise TrackingError(f"The journal of {sweep_folder} names no adapter of {trial!r}.")
    adapter = SweepFolder(sweep_folder).within(kept)
    model_id = log_trial_model(client, run, adapter_folder=adapter, state=state, trial=trial)
    yaml_uri = f"runs:/{parent.info.run_id}/experiment.yaml"
    return client.create_model_version(
        name,
        # MLflow would look up `models:/<id>` at its global address, which is not ours.
        source=client.get_logged_model(model_id).artifact_location,
        run_id=run.info.run_id,
        model_id=model_id,
        tags=version_tags(state, trial, sweep_folder) | {f"{TAG}experiment_yaml": yaml_uri},
        description=f"Trial {trial} of {sweep_folder}; its experiment file: {yaml_uri}",
    )


_ALIASED = f"{TAG}alias_version"
"""Tag of a registered model: the version that we gave the alias to. Another version has it from
somebody else."""


def _move_alias(
    client: MlflowClient,
    model: RegisteredModel,
    version: ModelVersion,
    alias: ModelVersion | None,
    *,
    latest: bool,
) -> str:
    """Give a version the alias, if it is due; say in a sentence what became of it."""
    this = f"{version.tags[f'{TAG}trial']} is version {version.version} of the model {model.name!r}"
    number, ours = str(version.version), model.tags.get(_ALIASED)
    if alias is not None and str(alias.version) == number:
        if ours != number:
            client.set_registered_model_tag(model.name, _ALIASED, number)
        return f"{this} and has the alias `{CHAMPION_ALIAS}`."
    why = _alias_stays(version, alias, ours, latest=latest)
    if why is not None:
        return f"{this}. {why}"
    client.set_registered_model_alias(model.name, CHAMPION_ALIAS, number)
    client.set_registered_model_tag(model.name, _ALIASED, number)
    before = f" instead of version {alias.version}" if alias is not None else ""
    return f"{this} and got the alias `{CHAMPION_ALIAS}`{before}."


def _alias_stays(
    version: ModelVersion, alias: ModelVersion | None, ours: str | None, *, latest: bool
) -> str | None:
    """Why a version does not get the alias; None if it does."""
    by_hand = (
        "Give it to this one in MLflow's pages, or with "
        f"`MlflowClient().set_registered_model_alias({version.name!r}, {CHAMPION_ALIAS!r}, "
        f"{version.version})`."
    )
    if alias is None:
        if ours != str(version.version):
            return None
        return f"A user took the alias `{CHAMPION_ALIAS}` from it. {by_hand}"
    if ours is not None and str(alias.version) != ours:
        return (
            f"The alias `{CHAMPION_ALIAS}` stays with version {alias.version}, which a user gave "
            f"it to. {by_hand}"
        )
    if not latest and _verdict_order(alias, version) > _verdict_order(version, alias):
        return (
            f"The alias `{CHAMPION_ALIAS}` stays with version {alias.version}, which was chosen "
            "later."
        )
    return None


def _verdict_order(version: ModelVersion, other: ModelVersion) -> float:
    """Larger for the later of two verdicts: by their lines in one sweep, by the clock otherwise."""
    same = version.tags.get(f"{TAG}sweep") == other.tags.get(f"{TAG}sweep")
    both = DECIDED_TAG in version.tags and DECIDED_TAG in other.tags
    return float(version.tags.get(DECIDED_TAG if same and both else f"{TAG}decided", 0.0))
