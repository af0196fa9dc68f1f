"""What MLflow's own pages show of a sweep: its report, and the columns that matter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.mlflow.client import ROLE, TAG
from orchestrator.records.mlflow.held_run import HeldRun, tag_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

_DESCRIPTION = "mlflow.note.content"
_DESCRIBED = "The report of this sweep: "
_NO_TRIAL = (
    "This run is the sweep itself and none of its trials; `champion/...` are its champion's. "
)
_VIEW = "orchestrator"
"""Key of the view that MLflow's pages open with."""


def attach_page(client: MlflowClient, experiment_id: str, held: HeldRun, folder: Path) -> str:
    """Put a folder (a report) among the artifacts of a run, unless it is there.

    The run's description leads to its page `index.html`; a description that somebody wrote stays.

    Args:
        client: From `connect`.
        experiment_id: The run's experiment.
        held: The run.
        folder: Its name is the place among the artifacts.

    Returns:
        The page's place in MLflow's own pages, from the `#` of the address on.
    """
    run = f"#/experiments/{experiment_id}/runs/{held.run.info.run_id}"
    page = f"{run}/artifacts/{folder.name}/index.html"
    key, digest = f"{TAG}sha256.{folder.name}", _folder_digest(folder)
    tags: dict[str, str] = {}
    described = held.tags.get(_DESCRIPTION, "")
    if not described or described.startswith((_NO_TRIAL, _DESCRIBED)):
        tags[_DESCRIPTION] = f"{_NO_TRIAL}{_DESCRIBED}[{folder.name}/index.html]({page})"
    if held.tags.get(key) != digest:
        client.log_artifacts(held.run.info.run_id, str(folder), folder.name)
        tags[key] = digest
    tag_run(client, held, tags)
    return page


def share_columns(client: MlflowClient, experiment_id: str, columns: Sequence[str]) -> str:
    """Keep a view of an experiment's trials, with columns chosen and sorted by gain.

    Args:
        client: From `connect`.
        experiment_id: The experiment.
        columns: `metrics.NAME`, `params.NAME` or `tags.NAME`, in their order.

    Returns:
        The view's place in MLflow's own pages, from the `#` of the address on.
    """
    quoted = [f"{kind}.`{name}`" for kind, _, name in (c.partition(".") for c in columns)]
    # What "Share" in MLflow's pages writes; they read it from the tag that the address names.
    view = {
        "searchFilter": f"tags.`{ROLE}` != 'sweep'",
        "orderByKey": "metrics.`gain`", "orderByAsc": False,
        "startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs",
        "datasetsFilter": [], "selectedColumns": quoted, "columnOrder": quoted,
    }  # fmt: skip
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{_VIEW}", json.dumps(view))
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={_VIEW}"


def _folder_digest(folder: Path) -> str:
    """Changes with the name or content of any file directly in the folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{file.name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
