"""One run of MLflow: what it holds as far as we know, and what is written to it.

Everything is written as the difference to what is there, so that it may be repeated.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.picture import Picture, shortened

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TAG_CHARACTERS = 8000
"""MLflow refuses longer tags."""

_BATCH_PARAMETERS = _BATCH_TAGS = 100
_BATCH_METRICS = 800


@dataclass
class HeldRun:
    """What MLflow holds of one run, as far as we know."""

    run: Run
    tags: dict[str, str]
    parameters: set[str]
    status: str
    end: int | None
    mark: int = -1
    """Points of this line of the journal, and of those before it, are there for certain."""
    deleted: bool = False
    """Somebody deleted it, and it stays so."""


def create_run(client: MlflowClient, experiment_id: str, picture: Picture) -> HeldRun:
    """Make the run of a picture, without what it shows but its tags."""
    tags = {key: shortened(value, TAG_CHARACTERS) for key, value in picture.tags.items()}
    run = client.create_run(
        experiment_id, start_time=picture.start, tags=tags, run_name=picture.name
    )
    return HeldRun(run, tags, set(), "RUNNING", None)


def write_run(client: MlflowClient, held: HeldRun, picture: Picture) -> None:
    """Write what a run lacks of its picture: tags, parameters, points, artifacts.

    Args:
        client: From `connect`.
        held: The run.
        picture: What it should show; its points are taken from it.
    """
    from mlflow.entities import Metric, Param, RunTag

    wanted = {key: shortened(value, TAG_CHARACTERS) for key, value in picture.tags.items()}
    tags = {key: value for key, value in wanted.items() if held.tags.get(key) != value}
    # A parameter that is there is never sent again: MLflow refuses to change one.
    missing = {k: v for k, v in picture.parameters.items() if k not in held.parameters}
    metrics = [
        Metric(point.key, point.value, point.time, point.step)
        for point in picture.points
        if point.n > held.mark
    ]
    parameters = [Param(key, value) for key, value in missing.items()]
    new_tags = [RunTag(key, value) for key, value in tags.items()]
    batches = max(
        math.ceil(len(metrics) / _BATCH_METRICS),
        math.ceil(len(parameters) / _BATCH_PARAMETERS),
        math.ceil(len(new_tags) / _BATCH_TAGS),
    )
    for i in range(batches):
        client.log_batch(
            held.run.info.run_id,
            metrics=metrics[i * _BATCH_METRICS : (i + 1) * _BATCH_METRICS],
            params=parameters[i * _BATCH_PARAMETERS : (i + 1) * _BATCH_PARAMETERS],
            tags=new_tags[i * _BATCH_TAGS : (i + 1) * _BATCH_TAGS],
        )
    held.tags |= tags
    held.parameters |= set(missing)
    picture.points.clear()
    digests: dict[str, str] = {}
    for name, text in picture.artifacts.items():
        key, digest = f"{TAG}sha256.{name}", _digest(text)
        if held.tags.get(key) != digest:
            client.log_text(held.run.info.run_id, text, name)
            digests[key] = digest
    tag_run(client, held, digests)


def write_status(client: MlflowClient, held: HeldRun, picture: Picture, rested: int | None) -> None:
    """Let a run be over or go on.

    Args:
        client: From `connect`.
        held: The run.
        picture: Whether it is over, and since when.
        rested: Since when no driver runs, in milliseconds since the epoch; None while one does.
    """
    status, end = picture.status, picture.end
    if end is None and rested is not None:
        status, end = "KILLED", rested
    if (held.status, held.end) == (status, end):
        return
    if end is None:
        if held.status != "RUNNING":
            client.update_run(held.run.info.run_id, status="RUNNING")
    else:
        client.set_terminated(held.run.info.run_id, status, end)
    held.status, held.end = status, end


def tag_run(client: MlflowClient, held: HeldRun, tags: Mapping[str, str]) -> None:
    """Set those tags of a run that it has not; a deleted run is left alone."""
    from mlflow.entities import RunTag

    new = {key: value for key, value in tags.items() if held.tags.get(key) != value}
    if new and not held.deleted:
        client.log_batch(
            held.run.info.run_id, tags=[RunTag(key, value) for key, value in new.items()]
        )
        held.tags |= new


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
