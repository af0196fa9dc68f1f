"""Prepared tasks: their token ids and facts, and the same as a JSON document for the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.data.items import Example, Item, Question, Window, Writing
from orchestrator.spec.task_kinds import LanguageModellingTask, TaskSpec


@dataclass(frozen=True)
class PreparedTask:
    """A task as token ids."""

    name: str
    spec: TaskSpec
    train: tuple[Example, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]
    labels: tuple[str, ...] = ()
    """Label values of a classification task, in the order of the continuations."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts, split origins and controls, for the records."""

    @property
    def is_language_modelling(self) -> bool:
        """Whether the task is running text."""
        return isinstance(self.spec, LanguageModellingTask)

    @property
    def has_head(self) -> bool:
        """Whether a linear head answers, so that there is nothing to score before it is learnt."""
        return self.spec.has_head


@dataclass(frozen=True)
class PreparedData:
    """Every task and probe of an experiment, ready to be shipped to workers."""

    tasks: dict[str, PreparedTask]
    hashes: dict[str, str]
    """Of each task, a hash of what it is made of: the token ids of its rows, whatever file or hub
    they came from."""
    controls: dict[str, dict[str, Any]]
    """Facts of each task, majority-class accuracy among them."""


_ITEMS: dict[str, type[Item]] = {"question": Question, "window": Window, "writing": Writing}


def task_as_document(task: PreparedTask) -> dict[str, Any]:
    """A prepared task as JSON, its spec left out."""
    names = {kind: name for name, kind in _ITEMS.items()}
    return {
        "name": task.name,
        "train": [list(vars(example).values()) for example in task.train],
        **{
            split: [[names[type(item)], *vars(item).values()] for item in getattr(task, split)]
            for split in ("validation", "test")
        },
        "labels": task.labels,
        "facts": task.facts,
    }


def task_from_document(document: Mapping[str, Any], spec: TaskSpec) -> PreparedTask:
    """The task of `task_as_document`.

    Args:
        document: The document.
        spec: The task's spec.

    Returns:
        An equal task.
    """
    return PreparedTask(
        name=document["name"],
        spec=spec,
        train=tuple(Example(*map(_tuples, values)) for values in document["train"]),
        validation=_items(document["validation"]),
        test=_items(document["test"]),
        labels=tuple(document["labels"]),
        facts=document["facts"],
    )


def _items(values: Sequence[Sequence[Any]]) -> tuple[Item, ...]:
    return tuple(_ITEMS[kind](*map(_tuples, fields)) for kind, *fields in values)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at every depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
