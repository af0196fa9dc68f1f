"""Kinds of tasks: a dataset with its prompt, its labels and its metric; their table.

Most tasks are *scored by log-likelihood*: classification and multiple choice pick the
continuation that the model finds likeliest after the prompt; language modelling reads the
probability of the text itself. Classification may instead have a *linear head* of its own, as in
the CURLoRA paper (Fawi 2024), and generation is scored on the text that the model writes.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeGuard

from curlora_kinds.plugins import LOADED
from curlora_kinds.table import Table
from orchestrator.spec.kind_models import OneOf
from orchestrator.spec.tasks.base import (
    ChoiceTask,
    DataSource,
    Head,
    PromptedTask,
    SplitOrigins,
    TaskBase,
    TaskMetric,
)
from orchestrator.spec.tasks.classification import ClassificationTask
from orchestrator.spec.tasks.generation import GenerationTask
from orchestrator.spec.tasks.language_modelling import LanguageModellingTask
from orchestrator.spec.tasks.multiple_choice import MultipleChoiceTask

__all__ = [
    "TASK_KINDS",
    "ChoiceTask",
    "ClassificationTask",
    "DataSource",
    "GenerationTask",
    "Head",
    "LanguageModellingTask",
    "MultipleChoiceTask",
    "PromptedTask",
    "TaskBase",
    "TaskMetric",
    "TaskSpec",
    "computed_fields",
    "plugin_sha256",
    "task_field_names",
]


def _kind_of(task: type[TaskBase]) -> str:
    return str(typing.get_args(task.model_fields["kind"].annotation)[0])


def _is_kind(thing: object) -> TypeGuard[type[TaskBase]]:
    # The forms that a plugin builds on have no kind.
    return isinstance(thing, type) and issubclass(thing, TaskBase) and "kind" in thing.model_fields


TASK_KINDS: Table[type[TaskBase]] = Table(
    "kind of task",
    (ClassificationTask, MultipleChoiceTask, GenerationTask, LanguageModellingTask),
    takes=_is_kind,
    name_of=_kind_of,
)
"""The model of each kind of task, by the value of `kind`."""

if TYPE_CHECKING:
    TaskSpec: TypeAlias = TaskBase
else:
    TaskSpec = Annotated[TaskBase, OneOf(TASK_KINDS)]


def computed_fields(task: TaskSpec) -> dict[str, Any]:
    """What of a task enters the computation, its rows left out.

    Args:
        task: The task.

    Returns:
        Its fields without where its rows come from (what they are, tokens tell) and what is there
        for people to read; of a plugin's kind, also the hash of the plugin's source.
    """
    fields = task.model_dump(mode="json", exclude={"data", "description", "source"})
    return fields | plugin_sha256(task)


def plugin_sha256(task: TaskSpec) -> dict[str, str]:
    """Give the hash of the source of the plugin that declares a task's kind.

    Args:
        task: The task.

    Returns:
        `plugin_sha256`; nothing for our own kinds.
    """
    plugin = LOADED.get(TASK_KINDS.plugin_of(task.kind) or "")
    return {} if plugin is None else {"plugin_sha256": plugin.sha256}


def task_field_names() -> list[str]:
    """Every field name that a task file may hold, for suggestions."""
    names = {name for model in TASK_KINDS.values() for name in model.model_fields}
    return sorted(names | set(DataSource.model_fields) | set(SplitOrigins.model_fields))
