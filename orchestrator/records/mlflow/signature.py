"""The signature of a logged model: the columns that its tasks read, and those of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.records.errors import TrackingError
from orchestrator.records.model_folder import MODEL_FILE
from orchestrator.spec.plugins import what_is_missing
from orchestrator.spec.task_files import TaskFileError, parse_task
from orchestrator.spec.task_kinds import PromptedTask, TaskSpec

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema


def asked_tasks(document: Mapping[str, Any]) -> dict[str, PromptedTask]:
    """The tasks of a model document that can be asked for a label or a text."""
    try:
        parsed = {n: parse_task(t, f"{MODEL_FILE}: {n}") for n, t in document["tasks"].items()}
    except TaskFileError as error:
        raise TrackingError(
            f"The task is not one that this version knows ({error})."
            f"{what_is_missing(document.get('experiment')) or ' Use the version that wrote it.'}"
        ) from None
    return {n: t for n, t in parsed.items() if isinstance(t, PromptedTask)}


def task_columns(task: TaskSpec) -> dict[str, Any]:
    """The columns that a task's prompt reads, with an example of each."""
    columns: dict[str, Any] = dict.fromkeys(task.asked_columns, "An example.")
    return columns | {column: ["one", "another"] for column in task.choice_columns}


def input_example(document: Mapping[str, Any]) -> pd.DataFrame:
    """A row that the first task of a model could be asked."""
    import pandas as pd

    first = next(iter(asked_tasks(document).values()), None)
    return pd.DataFrame([task_columns(first)] if first else [{"text": "An example."}])


def model_signature(document: Mapping[str, Any]) -> ModelSignature:
    """The columns in and out of a model, by which MLflow checks what it is given."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    tasks = asked_tasks(document)
    wanted = [task_columns(task) for task in tasks.values()]
    inputs = {name: example for columns in wanted for name, example in columns.items()}
    labels = {label for task in tasks.values() for label in task.label_values}
    return ModelSignature(
        inputs=Schema([
            ColSpec(Array(DataType.string) if isinstance(example, list) else DataType.string, name,
                    required=all(name in columns for columns in wanted))
            for name, example in inputs.items()
        ]) if inputs else None,
        outputs=Schema([
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "probability", required=False),
            *(ColSpec(DataType.double, probability_column(label), required=False)
              for label in sorted(labels)),
        ]),
        params=_params(tasks),
    )  # fmt: skip


def _params(tasks: Mapping[str, PromptedTask]) -> ParamSchema:
    """Which task is asked; the others are there to be read, as a signature has no set of values."""
    from mlflow.types import DataType, ParamSchema, ParamSpec

    only_said = [
        ParamSpec(name, DataType.string, values, shape=(-1,))
        for name, values in stated(tasks).items()
    ]
    first = [ParamSpec("task", DataType.string, name) for name in list(tasks)[:1]]
    return ParamSchema([*first, *(only_said if first else [])])


TASK_VALUES = "task_values"
"""The parameter of a signature that says what `task` may be."""


def labels_param(task: str) -> str:
    """The parameter of a signature that says which labels belong to a task."""
    return f"labels_of_{task}"


def stated(tasks: Mapping[str, PromptedTask]) -> dict[str, list[str]]:
    """The parameters that only state what a model can do, with their only values."""
    return {
        TASK_VALUES: list(tasks),
        **{labels_param(n): list(t.label_values) for n, t in tasks.items() if t.label_values},
    }


def probability_column(label: str) -> str:
    """The output column that holds the probability of one label."""
    return f"probability_{label}"
