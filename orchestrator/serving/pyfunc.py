"""A logged adapter as MLflow serves it: `mlflow.pyfunc.load_model` gives an `AdapterModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.records.mlflow.signature import (
    asked_tasks,
    probability_column,
    stated,
    task_columns,
)
from orchestrator.records.model_folder import read_model_document
from orchestrator.spec.plugins import load_installed_plugins

if TYPE_CHECKING:
    import pandas as pd


class AdapterModel:
    """What `mlflow.pyfunc.load_model` gives: one adapter, all the tasks that it learnt."""

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        """Load base and adapter.

        Args:
            folder: A folder from `write_model_folder`.
            base: Where the base is now, if it was moved since.
        """
        from orchestrator.serving.predictor import Predictor

        load_installed_plugins()
        self._tasks = asked_tasks(read_model_document(folder))
        self._predictor = Predictor.from_folder(folder, base=base)

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Choose a label by the task's own metric, or write a text, for every row.

        Args:
            model_input: The columns that the task's prompt reads.
            params: `{"task": name}`; the first task that was learnt when left out. The others of
                the signature say what there is, and cannot be changed.

        Returns:
            One row per input row: `label`, its `probability` in [0, 1], and a column
            `probability_<label>` for every label; for multiple choice `probability_<i>` for the
            row's choice i, counted from 0. Of a generation task `label` alone, the text.

        Raises:
            ValueError: If the task is not one that the adapter learnt, a column is missing, or a
                parameter that only says what there is was given another value.
        """
        import pandas as pd

        given = dict(params or {})
        for said, values in stated(self._tasks).items():
            if said in given and list(given[said]) != values:
                raise ValueError(
                    f"`{said}` says what this model has and cannot be changed: it is {values}, "
                    f"got {list(given[said])}. Leave it out."
                )
        name = given.get("task") or next(iter(self._tasks), None)
        task = self._tasks.get(str(name))
        if task is None:
            raise ValueError(f"`task` should be one of {list(self._tasks)}, got {name!r}.")
        missing = sorted(set(task_columns(task)) - set(map(str, model_input.columns)))
        if missing:
            raise ValueError(
                f"The task {name!r} reads the columns {sorted(task_columns(task))}; {missing} are "
                f"missing from {list(model_input.columns)}."
            )
        rows = [{str(k): v for k, v in row.items()} for row in model_input.to_dict("records")]
        # MLflow hands a list on as an array.
        rows = [row | {name: list(row[name]) for name in task.choice_columns} for row in rows]
        answers: list[dict[str, Any]] = []
        for prediction in self._predictor.predict(str(name), rows):
            chances = prediction.by_position
            labels = task.label_values or map(str, range(len(chances)))
            answers.append({
                "label": prediction.label,
                **({"probability": prediction.probability} if chances else {}),
                **dict(zip(map(probability_column, labels), chances, strict=True)),
            })  # fmt: skip
        return pd.DataFrame(answers, index=model_input.index)


def load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> AdapterModel:
    """MLflow's entry point; safetensors and JSON are read, nothing is executed.

    Args:
        path: The model folder.
        model_config: `base`: where the base is now, if it was moved since.

    Returns:
        The loaded model.
    """
    base = (model_config or {}).get("base")
    return AdapterModel(Path(path), Path(base) if base else None)
