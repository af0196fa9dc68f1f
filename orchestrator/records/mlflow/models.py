"""Trained adapters as MLflow models.

A logged model is a folder of safetensors and JSON (`write_model_folder`) that MLflow loads through
`orchestrator.model_registry`: loading it runs no code of its own and unpickles nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.records.cards.card import adapter_card
from orchestrator.records.journal_facts import milliseconds
from orchestrator.records.mlflow.client import TAG
from orchestrator.records.mlflow.picture import flat_parameters
from orchestrator.records.mlflow.signature import input_example, model_signature
from orchestrator.records.model_folder import read_model_document, write_model_folder
from orchestrator.records.sweep_state import SweepState
from orchestrator.system.scratch import scratch
from orchestrator.system.strict_json import is_number

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run


_LOGGED_MODEL_NAME = "adapter"
_LOADED_WITH = ("torch", "transformers", "peft", "safetensors")
_DESCRIBED = ("base", "method", "training", "seeds", "learnt", "tasks", "parent", "same_as")
"""The parts of a card that become parameters of a logged model."""


def log_trial_model(
    client: MlflowClient, run: Run, *,
    adapter_folder: Path, state: SweepState, trial: str, learnt: int | None = None,
) -> str:  # fmt: skip
    """Log an adapter of a trial as a `pyfunc` model of its run, once, with its card.

    Args:
        client: From `connect`.
        run: The trial's MLflow run.
        adapter_folder: What PEFT's `save_pretrained` wrote.
        state: The sweep.
        trial: The trial's name.
        learnt: After how many tasks it was kept; None: after the last.

    Returns:
        The identity of the logged model; the same one when it was logged before. A folder without
        an adapter is an `AdapterFolderError`, before MLflow is told of a model.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    experiment_id, run_id = run.info.experiment_id, run.info.run_id
    count = learnt or len(state.tasks)
    last = count == len(state.tasks)
    name = _LOGGED_MODEL_NAME if last else f"{_LOGGED_MODEL_NAME}-after-{count}"
    found = [
        model
        for model in client.search_logged_models(
            [experiment_id], filter_string=f"source_run_id = '{run_id}'"
        )
        if model.name == name
    ]
    for model in found:
        if model.status == LoggedModelStatus.READY:
            return model.model_id
    card = adapter_card(state, state.trial(trial), count)
    with scratch("model") as place:
        folder = write_model_folder(
            place / "trained", adapter_folder=adapter_folder, state=state, trial=trial, learnt=count
        )
        # One that a crash left half written is written again, under the same identity.
        model = next(iter(found), None) or client.create_logged_model(
            experiment_id, name=name, source_run_id=run_id, model_type="adapter",
            tags={f"{TAG}sweep": state.identity, f"{TAG}trial": trial, f"{TAG}card": card["name"]},
            params=flat_parameters({key: card[key] for key in _DESCRIBED}),
        )  # fmt: skip
        saved = place / "saved"
        _save(saved, folder, model, run_id, _requirements(state, trial))
        client.log_model_artifacts(model.model_id, str(saved))
    # The database refuses a link that is there, which a driver may have made before it was killed.
    outputs = client.get_run(run_id).outputs
    linked = outputs.model_outputs if outputs is not None else []
    if model.model_id not in {output.model_id for output in linked}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=count)])
    if not client.get_logged_model(model.model_id).metrics:
        client.log_batch(run_id, metrics=_metrics(state, trial, card, model.model_id))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model.model_id


def _save(
    saved: Path, folder: Path, model: LoggedModel, run_id: str, requirements: list[str]
) -> None:
    """Write a model folder as MLflow's `pyfunc` loads it."""
    import mlflow.pyfunc
    from mlflow.models import Model

    document = read_model_document(folder)
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
            pip_requirements=requirements,
        )


def _metrics(state: SweepState, trial: str, card: Mapping[str, Any], model_id: str) -> list[Metric]:
    """What a card says in numbers, as points that the trial's run has as well."""
    from mlflow.entities import Metric

    record, learnt = state.trial(trial), int(card["learnt"])
    step, made = int(card["cost"]["steps"]), milliseconds(record.ended)
    scores = card["matrix"][-1]["scores"] if card["matrix"] else {}
    points = [(f"score/{task}", score["value"], made, step) for task, score in scores.items()]
    points += [(name, card["cost"][name], made, step) for name in ("tokens", "seconds")]
    for probe, readings in (card["matrix"][-1]["probes"] if card["matrix"] else {}).items():
        points += [(f"{name}/{probe}", value, made, step) for name, value in readings.items()]
    if learnt == len(state.tasks):
        low, high = card["gain_interval"] or (None, None)
        ended = {**card["measures"], "gain_low": low, "gain_high": high}
        points += [(key, v, milliseconds(record.ended), 0) for key, v in ended.items()]
    return [
        Metric(key, value, time, at, model_id=model_id)
        for key, value, time, at in points
        if is_number(value)
    ]


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
