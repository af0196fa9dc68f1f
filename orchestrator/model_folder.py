"""`model.json`, which says what a model folder was made from: read and checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.experiment import ModelSpec
from orchestrator.strict_json import cut, read_object
from orchestrator.tasks import TaskSpec, parse_task, render_validation_error

MODEL_FILE = "model.json"
LONGEST_QUESTION = 1 << 24
"""Tokens; no model reads more, and a larger number was never written by a sweep."""
_AGAIN = "It is written with the adapter: export or copy the model folder again."


class ModelFolderError(ValueError):
    """A model folder that is not whole; the message names the file and what is wrong."""


def read_model_document(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself.

    Args:
        folder: The model folder.

    Returns:
        The document; it has `base`, `precision`, `max_length` and `tasks` of the right kinds.

    Raises:
        ModelFolderError: If it is missing or was damaged.
    """
    path = folder / MODEL_FILE
    document = read_object(path, ModelFolderError, _AGAIN)
    wanted = {
        "base": ("an object", lambda value: isinstance(value, Mapping)),
        "precision": ("fp32 or bf16", lambda value: value in ("fp32", "bf16")),
        "max_length": ("a number of tokens", _is_length),
        "tasks": ("an object of tasks", _are_tasks),
    }
    for name, (kind, fits) in wanted.items():
        if not fits(document.get(name)):
            raise ModelFolderError(
                f"{path}: `{name}` should be {kind}, got {cut(repr(document.get(name)))}. {_AGAIN}"
            )
    return document


def _is_length(value: object) -> bool:
    return type(value) is int and 0 < value <= LONGEST_QUESTION


def _are_tasks(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(t, Mapping) for t in value.values())


def base_of(document: Mapping[str, Any], folder: Path) -> ModelSpec:
    """The base model that a model folder belongs to.

    Args:
        document: What `read_model_document` gave.
        folder: The model folder, for messages.

    Returns:
        The base model.

    Raises:
        ModelFolderError: If the document names none.
    """
    source = document["base"]
    try:
        return ModelSpec(**{key: source.get(key) for key in ModelSpec.model_fields})
    except ValidationError as error:
        known = list(ModelSpec.model_fields)
        told = render_validation_error(error, f"{folder / MODEL_FILE}: base", known)
        raise ModelFolderError(f"{told}. {_AGAIN}") from None


def tasks_of(document: Mapping[str, Any], folder: Path) -> dict[str, TaskSpec]:
    """The tasks that a model was made for.

    Args:
        document: What `read_model_document` gave.
        folder: The model folder, for messages.

    Returns:
        Tasks by name, in the order in which they were learnt. One that is no task is a
        `TaskFileError`.
    """
    return {
        name: parse_task(task, f"{folder / MODEL_FILE}: tasks.{name}")
        for name, task in document["tasks"].items()
    }
