"""Registered models found by name: their files, downloaded if need be, and their records."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.records.errors import TrackingError, UnknownModelError
from orchestrator.records.mlflow.address import local_path, place_in
from orchestrator.records.mlflow.client import TAG, connect, mlflow_errors
from orchestrator.records.mlflow.storage_folder import storage_identity
from orchestrator.records.mlflow.tags import CHAMPION_ALIAS, every_page, find_model
from orchestrator.system.content_cache import user_cache
from orchestrator.system.wording import suggestion

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


_NAMES_SHOWN = 20


def resolve(reference: str, uri: str, storage: Path, *, cache: Path | None = None) -> Path:
    """The local folder of a registered model, downloaded when it is not on this machine.

    Args:
        reference: `NAME@ALIAS` or `NAME/VERSION`.
        uri: Where MLflow records.
        storage: The storage folder; it may have moved since the model was registered.
        cache: Where downloads are kept; null: `curlora-orchestrator` in the user's cache folder.

    Returns:
        A folder as `write_model_folder` writes it; not to be changed.

    Raises:
        TrackingError: If MLflow cannot be used, or what it names is not there.
    """
    import yaml
    from mlflow.models.model import MLMODEL_FILE_NAME

    with mlflow_errors(uri):
        client = connect(uri)
        version = _find_version(client, reference, storage_identity(uri, storage))
        location = client.get_model_version_download_uri(version.name, version.version)
        there, here = local_path(location), place_in(storage, location)
        if there is not None:
            root = here if here is not None and here.is_dir() else there
            if not root.is_dir():
                raise TrackingError(_gone(reference, root, storage, version))
        else:
            # A location holds one model for ever, so its name stands for the content.
            key = hashlib.sha256(location.encode()).hexdigest()[:16]
            place = (cache or model_cache()) / f"{version.name}-{key}"
            root = downloaded(location, place, uri)
        # `Model.load` takes a path for an address, in which `#` and `%` mean something else.
        described = yaml.safe_load((root / MLMODEL_FILE_NAME).read_text(encoding="utf-8"))
        data = described["flavors"]["python_function"]["data"]
    return root / data


def _gone(reference: str, root: Path, storage: Path, version: ModelVersion) -> str:
    folder = Path(version.tags.get(f"{TAG}folder", "SWEEP")).name
    return (
        f"The files of {reference} are gone: there is no {root}. If its storage folder was moved, "
        f"name the new place with `--storage` (now {storage}); the trial's own adapter may still "
        f"be there as {folder}/{version.tags.get(f'{TAG}trial', 'TRIAL')}."
    )


def model_cache() -> Path:
    """Where downloaded models are kept."""
    return user_cache() / "models"


def downloaded(location: str, place: Path, uri: str) -> Path:
    """The place of a model's files, fetched unless they are there."""
    import mlflow.artifacts

    if not place.is_dir():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.mkdtemp(dir=place.parent)
        except OSError as error:
            raise TrackingError(
                f"The model cannot be kept in {place.parent}: {error.strerror or error}. Set "
                "XDG_CACHE_HOME to a folder that you can write to."
            ) from None
        fetched = mlflow.artifacts.download_artifacts(
            artifact_uri=location, dst_path=scratch, tracking_uri=uri, registry_uri=uri
        )
        # A download that a crash cut short never gets the final name.
        Path(fetched).rename(place)
        shutil.rmtree(scratch, ignore_errors=True)
    return place


def _find_version(client: MlflowClient, reference: str, identity: str) -> ModelVersion:
    match = re.fullmatch(r"(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))", reference)
    if match is None:
        raise UnknownModelError(
            f"A registered model is written NAME@ALIAS or NAME/VERSION, got {reference!r}. "
            f"For example {reference.partition('@')[0].partition('/')[0]}@{CHAMPION_ALIAS}."
        )
    model, name = find_model(client, match["name"], identity)
    if model is None:
        raise UnknownModelError(_unknown_model(client, name))
    aliases = {alias: str(number) for alias, number in model.aliases.items()}
    number = match["version"] or aliases.get(match["alias"])
    versions = every_page(
        lambda token: client.search_model_versions(f"name = '{model.name}'", page_token=token)
    )
    known = {str(version.version): version for version in versions}
    if number is None or number not in known:
        hint = suggestion(match["alias"], list(aliases)) if match["alias"] else ""
        named = ", ".join(f"{a} (version {n})" for a, n in sorted(aliases.items())) or "none"
        numbers = ", ".join(sorted(known, key=int)) or "none"
        raise UnknownModelError(
            f"The model {name!r} has no {reference.removeprefix(match['name'])!r}.{hint} "
            f"Aliases: {named}. Versions: {numbers}."
        )
    return client.get_model_version(model.name, number)


def _unknown_model(client: MlflowClient, name: str) -> str:
    names = sorted(
        model.name
        for model in every_page(lambda token: client.search_registered_models(page_token=token))
    )
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    more = f" and {len(names) - _NAMES_SHOWN} others" if len(names) > _NAMES_SHOWN else ""
    near = suggestion(name, names)
    return f"No registered model {name!r}.{near} Registered models: {shown}{more}."


def champion_record(name: str, uri: str, storage: Path) -> dict[str, Any]:
    """What made the champion of a sweep.

    Args:
        name: The sweep's name, which is the registered model's.
        uri: Where MLflow records.
        storage: The storage folder.

    Returns:
        `model`, `version`, `registered` (seconds since the epoch), `run`, `sweep`, `trial`,
        `folder`, `reason`, `experiment_yaml` (a link), and the documents `base`, `data`, `code`,
        `packages`, `seeds`, `overrides`, `test` (see `test_scores`), `measures` and `gain_interval`
        (both of validation scores); `extends` where it goes on from another trial.
    """
    with mlflow_errors(uri):
        client = connect(uri)
        identity = storage_identity(uri, storage)
        version = _find_version(client, f"{name}@{CHAMPION_ALIAS}", identity)
    tags = {key.removeprefix(TAG): value for key, value in version.tags.items()}
    record: dict[str, Any] = {
        "model": version.name,
        "version": str(version.version),
        "registered": version.creation_timestamp / 1000,
        "run": version.run_id,
    }
    for key in ("sweep", "trial", "folder", "reason", "experiment_yaml"):
        record[key] = tags.get(key)
    here = storage / Path(str(record["folder"])).name
    if here.is_dir():  # the storage folder may have moved since
        record["folder"] = str(here.resolve())
    for key in ("test", "base", "data", "code", "packages", "seeds", "overrides", "measures",
                "gain_interval"):  # fmt: skip
        record[key] = json.loads(tags.get(key, "null"))
    if "extends" in tags:
        record["extends"] = json.loads(tags["extends"])
    return record
