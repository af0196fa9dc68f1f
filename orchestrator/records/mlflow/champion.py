"""Champions in MLflow's model registry: a version each, and the alias `champion`.

Who is champion is said by the registry of the storage folder (`records/registry`); MLflow shows it.
Everything here can be repeated after a crash: what MLflow holds already is found by its tags and
used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.cards.card import adapter_key
from orchestrator.records.cards.reference import AdapterKey
from orchestrator.records.errors import TrackingError
from orchestrator.records.mlflow.client import TAG, mlflow_errors
from orchestrator.records.mlflow.storage_folder import connect_here, storage_identity
from orchestrator.records.mlflow.tags import (
    ALIASED,
    CHAMPION_ALIAS,
    REGISTERED_MODEL,
    find_experiment,
    find_model,
    own_tags,
    usual_name,
)
from orchestrator.records.mlflow.versions import version_of
from orchestrator.records.opening import folder_of
from orchestrator.records.parts.trial_part import adapter_part
from orchestrator.records.registry.by_hand import AliasSeen, change_by_hand
from orchestrator.records.registry.change import Change
from orchestrator.records.registry.in_mlflow import SeenInMlflow
from orchestrator.records.registry.registry_file import open_registry
from orchestrator.records.registry.standing import Standing
from orchestrator.records.registry.verdicts import note_verdict
from orchestrator.records.sweep_state import SweepState

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel


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
    """Register the model of a verdict's champion, and give the alias to whom the registry names.

    The same champion always gets the same version. The alias is never taken from an adapter that
    somebody promoted, here or in MLflow, nor from the champion of a later verdict, and stays where
    it is without a champion.

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
    verdict, sweep, storage = state.last_verdict, state.name, sweep_folder.parent
    with mlflow_errors(uri, sweep_folder):
        client, identity = connect_here(uri, storage), storage_identity(uri, storage, make=True)
        model, name = find_model(client, sweep, identity)
        _looked(client, storage, sweep, model)
        if verdict is None or verdict.champion is None:
            why = verdict.reason if verdict else "the sweep has not ended"
            alias = None if model is None else model.aliases.get(CHAMPION_ALIAS)
            kept = (
                f" The alias `{CHAMPION_ALIAS}` of the model {name!r} still names version {alias}; "
                "it was not moved."
                if alias
                else ""
            )
            return Registration(name, None, f"No champion was registered: {why}.{kept}")
        with open_registry(storage) as registry:
            standing = note_verdict(registry, state, latest=just_decided)
        gone = SeenInMlflow(storage, sweep).is_gone("model")
        if model is None and (gone or _was_deleted(client, sweep, identity, state.identity)):
            SeenInMlflow(storage, sweep).found((), ["model"])
            return Registration(
                name, None,
                f"The registered model {name!r} was deleted in MLflow, and is not made again. "
                f"`orchestrate champion promote {sweep}/{verdict.champion} --reason TEXT` does it.",
            )  # fmt: skip
        model = _owned_model(client, storage, sweep, name, model, identity)
        key = adapter_key(state, state.trial(verdict.champion), len(state.tasks))
        version = version_of(client, model.name, key, None, uri=uri, identity=identity,
                             folder=sweep_folder, state=state)  # fmt: skip
        this = f"{verdict.champion} is version {version} of the model {model.name!r}"
        _mark_registered(client, sweep, identity, state.identity, model.name)
        text = _set_alias(client, storage, model, standing, key, version, this)
        if not key.is_same(standing.champion) and CHAMPION_ALIAS not in model.aliases:
            text = f"{text} {_put_again(uri, storage, sweep, standing)}".rstrip()
    return Registration(model.name, version, text)


def _put_again(uri: str, storage: Path, name: str, standing: Standing) -> str:
    """Give the alias to the promoted champion in a registry that was made anew."""
    if standing.champion is None:
        return ""
    try:
        return put_champion(uri, storage, name)
    except TrackingError as error:
        return f"MLflow lacks the champion: {error}"


def put_champion(uri: str, storage: Path, name: str) -> str:
    """Let MLflow's alias name the adapter that the registry says is champion.

    Args:
        uri: Where MLflow records.
        storage: The storage folder.
        name: Whose champion.

    Returns:
        What was done, a sentence for people.

    Raises:
        TrackingError: If MLflow cannot be used, or does not hold the run of the champion's trial.
    """
    with mlflow_errors(uri):
        client, identity = connect_here(uri, storage), storage_identity(uri, storage, make=True)
        model, free = find_model(client, name, identity)
        standing = _looked(client, storage, name, model)
        current, key = standing.current, standing.champion
        if current is None or key is None:
            return f"{name!r} has no champion that MLflow could show."
        folder = folder_of(storage, key.sweep, key.sweep_id)
        if folder is None:
            raise TrackingError(f"The sweep of {key.reference} is not in {storage}.")
        state = adapter_part(folder, [key.trial])
        model = _owned_model(client, storage, name, free, model, identity)
        version = version_of(client, model.name, key, current.reason, uri=uri, identity=identity,
                             folder=folder, state=state)  # fmt: skip
        _mark_registered(client, name, identity, state.identity, model.name)
        this = f"{key.reference} is version {version} of the model {model.name!r}"
        return _set_alias(client, storage, model, standing, key, version, this)


def _looked(
    client: MlflowClient, storage: Path, name: str, model: RegisteredModel | None
) -> Standing:
    """What the registry says of a name, what somebody did with the alias in MLflow included."""
    with open_registry(storage) as registry:
        standing = Standing.of(name, registry.changes)
        if model is None:
            return standing
        version = model.aliases.get(CHAMPION_ALIAS)
        tags: Mapping[str, str] = {}
        if version is not None:
            found = client.get_model_version(model.name, str(version)).tags
            tags = {key.removeprefix(TAG): value for key, value in found.items()}
        seen = AliasSeen(
            model.name, None if version is None else str(version), model.tags.get(ALIASED), tags
        )
        change = change_by_hand(standing, seen)
        if change is not None:
            standing.take(registry.append(change))
        return standing


def _owned_model(
    client: MlflowClient, storage: Path, sweep: str, name: str, model: RegisteredModel | None,
    identity: str,
) -> RegisteredModel:  # fmt: skip
    """The registered model, made when missing, with the tags that say whose it is."""
    tags, seen = own_tags(identity, sweep), SeenInMlflow(storage, sweep)
    if model is None:
        name = seen.name_of("model", name)
        client.create_registered_model(name, tags, "Champions of the sweep of this name.")
        seen.found(["model"], ())
    else:
        seen.named("model", usual_name(sweep, identity, model.name), model.name)
    for key, value in tags.items():
        if model is not None and key not in model.tags:
            client.set_registered_model_tag(model.name, key, value)
    return client.get_registered_model(name if model is None else model.name)


def _was_deleted(client: MlflowClient, name: str, identity: str, sweep: str) -> bool:
    """Whether a model that is not there was there before: its experiment remembers it."""
    experiment, _ = find_experiment(client, name, identity, sweep)
    return experiment is not None and REGISTERED_MODEL in experiment.tags


def _mark_registered(
    client: MlflowClient, name: str, identity: str, sweep: str, model: str
) -> None:
    experiment, _ = find_experiment(client, name, identity, sweep)
    if experiment is not None and experiment.tags.get(REGISTERED_MODEL) != model:
        client.set_experiment_tag(experiment.experiment_id, REGISTERED_MODEL, model)


def _set_alias(
    client: MlflowClient,
    storage: Path,
    model: RegisteredModel,
    standing: Standing,
    key: AdapterKey,
    number: str,
    this: str,
) -> str:
    """Give a version the alias, if its adapter is champion; say in a sentence what became of it."""
    champion = standing.champion
    if champion is None or (champion.sweep_id, champion.trial, champion.learnt) != (
        key.sweep_id, key.trial, key.learnt,
    ):  # fmt: skip
        return f"{this}. {_stays(standing, key)}"
    alias = model.aliases.get(CHAMPION_ALIAS)
    before = f" instead of version {alias}" if alias is not None else ""
    has = alias is not None and str(alias) == number
    if not has:
        client.set_registered_model_alias(model.name, CHAMPION_ALIAS, number)
    # Last: a crash in between looks like an alias that somebody gave to the champion.
    if model.tags.get(ALIASED) != number:
        client.set_registered_model_tag(model.name, ALIASED, number)
    last = standing.last_of_alias
    if not has or last is None or (last.event, last.version) != ("shown", number):
        with open_registry(storage) as registry:
            registry.append(Change("shown", standing.name, adapter=key, version=number))
    if has:
        return f"{this} and has the alias `{CHAMPION_ALIAS}`."
    return f"{this} and got the alias `{CHAMPION_ALIAS}`{before}."


def _stays(standing: Standing, key: AdapterKey) -> str:
    """Why an adapter is not champion."""
    current = standing.current
    cure = f"`orchestrate champion promote {key.reference} --reason TEXT` makes this one champion."
    if current is None:
        return cure
    if current.event == "withdrawn":
        return f"A user took the alias `{CHAMPION_ALIAS}` away in MLflow. {cure}"
    who = (
        f"version {current.version}, which a user gave it to in MLflow"
        if current.event == "moved"
        else f"{current.adapter.reference if current.adapter else 'another'}, "
        + ("which was chosen later" if current.event == "decided" else f"which {current.who} chose")
    )
    return f"The alias `{CHAMPION_ALIAS}` stays with {who}. {cure}"


__all__ = ["CHAMPION_ALIAS", "Registration", "put_champion", "register_champion"]
