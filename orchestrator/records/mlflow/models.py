"""Trained adapters as MLflow models.

A logged model is a folder of safetensors and JSON (`write_model_folder`) that MLflow loads through
`orchestrator.model_registry`: loading it runs no code of its own and unpickles nothing.
"""

from __future__ import annotations

import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.signature import input_example, model_signature
from orchestrator.records.model_folder import read_model_document, write_model_folder
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.scratch import scratch

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


_LOGGED_MODEL_NAME = "adapter"
_LOADED_WITH = ("torch", "transformers", "peft", "safetensors")


def log_trial_model(
    client: MlflowClient, run: Run, *, adapter_folder: Path, state: SweepState, trial: str
) -> str:
    """Log a trial's adapter as a `pyfunc` model of its run, once.

    Args:
        client: From `connect`.
        run: The trial's MLflow run.
        adapter_folder: What PEFT's `save_pretrained` wrote.
        state: The sweep.
        trial: The trial's name.

    Returns:
        The identity of the logged model; the same one when it was logged before. A folder without
        an adapter is an `AdapterFolderError`, before MLflow is told of a model.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    found = client.search_logged_models(
        [experiment_id], filter_string=f"source_run_id = '{run_id}'"
    ).to_list()
    for model in found:
        if model.status == LoggedModelStatus.READY:
            return model.model_id
    with scratch("model") as place:
        folder = write_model_folder(
            place / "trained", adapter_folder=adapter_folder, state=state, trial=trial
        )
        # One that a crash left half written is written again, under the same identity.
        model = next(iter(found), None) or client.create_logged_model(
            experiment_id, name=_LOGGED_MODEL_NAME, source_run_id=run_id,
            tags={f"{TAG}sweep": state.identity, f"{TAG}trial": trial}, model_type="adapter",
        )  # fmt: skip
        document = read_model_document(folder)
        saved = place / "saved"
        with warnings.catch_warnings():
            # MLflow's own use of pandas is deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            mlflow.pyfunc.save_model(
                path=str(saved),
                loader_module="orchestrator.model_registry",
                data_path=str(folder),
                mlflow_model=Model(
                    artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id
                ),
                signature=model_signature(document),
                input_example=input_example(document),
                pip_requirements=_requirements(state, trial),
            )
        client.log_model_artifacts(model.model_id, str(saved))
    # The database refuses a link that is there, which a driver may have made before it was killed.
    outputs = client.get_run(run_id).outputs
    linked = outputs.model_outputs if outputs is not None else []
    if model.model_id not in {output.model_id for output in linked}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model.model_id


def _requirements(state: SweepState, trial: str) -> list[str]:
    """Exact pins of what loading needs: as the trial was made with, else what is installed here."""
    made_with = state.versions_of(state.trial(trial))
    own = made_with.get("code", "").partition(" ")[0] or _installed("curlora-orchestrator")
    pins = [f"curlora-orchestrator=={own}" if own else "curlora-orchestrator"]
    # "2.13.0+cpu" is a build that package indexes do not serve.
    pins.extend(
        f"{package}=={(made_with.get(package) or metadata.version(package)).partition('+')[0]}"
        for package in _LOADED_WITH
    )
    return pins


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout
        return None
