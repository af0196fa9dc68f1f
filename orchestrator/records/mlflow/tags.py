"""Experiments, runs and registered models found again by their tags.

Others use the same MLflow, and may have given the names away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.records.mlflow.client import TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient, entities
    from mlflow.entities import Run
    from mlflow.entities.model_registry import RegisteredModel


CHAMPION_ALIAS = "champion"
ALIASED = f"{TAG}alias_version"
"""Tag of a registered model: the version that we gave the alias to. Another version has it from
somebody else."""
REGISTERED_MODEL = f"{TAG}registered_model"
"""Tag of an experiment: the registered model of its champions. One that is gone was deleted."""


def every_page(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """What a search finds on all its pages; it is given the token of the page."""
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def find_runs(client: MlflowClient, experiment_id: str, sweep: str) -> dict[str | None, list[Run]]:
    """The runs of one sweep by trial (None for the sweep's own run), found by their tags.

    Args:
        client: From `connect`.
        experiment_id: MLflow's experiment.
        sweep: From `sweep_id`.

    Returns:
        At least one run of each trial that has any; those that were deleted come last.
    """
    from mlflow.entities import ViewType

    wanted = f"tags.`{TAG}sweep` = '{sweep}'"
    runs: dict[str | None, list[Run]] = {}
    for run in every_page(
        lambda token: client.search_runs(
            [experiment_id], wanted, ViewType.ALL, max_results=1000, page_token=token
        )
    ):
        runs.setdefault(run.data.tags.get(f"{TAG}trial"), []).append(run)
    return {trial: sorted(found, key=is_deleted) for trial, found in runs.items()}


def is_deleted(run: Run) -> bool:
    """Whether somebody deleted a run; MLflow then keeps it and takes nothing more for it."""
    return run.info.lifecycle_stage != "active"


_STORAGE, _NAME = f"{TAG}storage", f"{TAG}name"
"""Tags of experiments and registered models: whose they are, and the sweep's name there."""


def own_tags(identity: str, name: str) -> dict[str, str]:
    """The tags by which an experiment or a registered model is found again, whatever its name.

    Args:
        identity: From `storage_identity`.
        name: The sweep's name.

    Returns:
        Tags and their values.
    """
    return {_STORAGE: identity, _NAME: name}


def find_experiment(
    client: MlflowClient, name: str, identity: str, sweep: str, *, copied_from: str = ""
) -> tuple[entities.Experiment | None, str]:
    """The experiment of the sweeps of one name in one storage folder.

    Args:
        client: From `connect`.
        name: The sweep's name.
        identity: From `storage_identity`.
        sweep: From `sweep_id`.
        copied_from: The identity of the storage folder that this one was copied from, whose
            experiment holds runs of the same sweeps and stays its own.

    Returns:
        The experiment, under whatever name somebody gave it since, or None; and the name that a new
        one may have: the sweep's, unless another storage folder has an experiment of that name.
    """
    from mlflow.entities import ViewType

    tagged = f"tags.`{_STORAGE}` = '{identity}' AND tags.`{_NAME}` = '{name}'"
    own = client.search_experiments(ViewType.ALL, filter_string=tagged)
    if own:
        return min(own, key=lambda found: found.lifecycle_stage != "active"), name
    found = client.get_experiment_by_name(name)
    if found is None or _STORAGE not in found.tags:
        return found, name
    taken = found.tags[_STORAGE] == copied_from
    if not taken and client.search_runs(
        [found.experiment_id], f"tags.`{TAG}sweep` = '{sweep}'", max_results=1
    ):
        return found, name
    return None, _own_name(name, identity)


def _own_name(name: str, identity: str) -> str:
    return f"{name}-{identity[:6]}"


def usual_name(name: str, identity: str, now: str) -> str:
    """The name that an experiment or a model was made with, if it has one of those that we give."""
    own = _own_name(name, identity)
    return own if now == own else name


def find_model(
    client: MlflowClient, name: str, identity: str
) -> tuple[RegisteredModel | None, str]:
    """The registered model of the sweeps of one name in one storage folder.

    Args:
        client: From `connect`.
        name: The sweep's name.
        identity: From `storage_identity`; empty: whoever's it is.

    Returns:
        The model, under whatever name somebody gave it since, or None; and the name that it has, or
        that a new one may have.
    """
    if identity:
        tagged = f"tags.`{_STORAGE}` = '{identity}' AND tags.`{_NAME}` = '{name}'"
        own = list(client.search_registered_models(filter_string=tagged, max_results=1))
        if own:
            # A search leaves out aliases.
            return client.get_registered_model(own[0].name), own[0].name
    found = _model_named(client, name)
    if not identity or found is None or found.tags.get(_STORAGE, identity) == identity:
        return found, name
    own_name = _own_name(name, identity)
    return _model_named(client, own_name), own_name


def _model_named(client: MlflowClient, name: str) -> RegisteredModel | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def only_one(client: MlflowClient, runs: Sequence[Run]) -> Run:
    """The fullest of several runs of one trial; the others are deleted.

    There can be several when a server made a run, its answer was lost, and the request was
    repeated: the surplus ones are empty.

    Args:
        client: From `connect`.
        runs: At least one run.

    Returns:
        The run to go on with.
    """
    kept, *surplus = sorted(
        runs,
        key=lambda run: (
            is_deleted(run), -len(run.data.metrics), -len(run.data.tags), run.info.run_id
        ),
    )  # fmt: skip
    for run in surplus:
        if not is_deleted(run):
            client.delete_run(run.info.run_id)
    return kept
