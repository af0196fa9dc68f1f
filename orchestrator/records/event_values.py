"""Values that events hold in lists and by name: finalists, and the sides of a reading."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self


@dataclass(frozen=True)
class Finalist:
    """A trial that was repeated with fresh seeds."""

    trial: str
    repeats: tuple[str, ...] = ()
    """The repetitions."""
    mean: dict[str, float] = field(default_factory=dict[str, float])
    """Their mean by measure; NaN where it is not known, as in `spread`."""
    spread: dict[str, float] = field(default_factory=dict[str, float])
    """Their standard deviation by measure."""

    @classmethod
    def read_all(cls, documents: Iterable[Mapping[str, Any]]) -> tuple[Self, ...]:
        """The finalists of a line of a journal."""
        return tuple(cls(**_held(cls, document, _READERS)) for document in documents)

    @staticmethod
    def write_all(finalists: Iterable[Finalist]) -> list[dict[str, Any]]:
        """The finalists as a line holds them."""
        return [asdict(finalist) for finalist in finalists]


@dataclass(frozen=True)
class EarlyStop:
    """Why a trial was stopped before its last task."""

    task: str = ""
    """In which task."""
    fraction: float = 1.0
    """How much of it was learnt, from 0 to 1."""
    measure: str = ""
    """In which the trial is worse."""
    rival: str | None = None
    """Than which trial; None: than the champion's limit."""
    difference: float = math.nan
    """The rival's measure minus the trial's; or the trial's minus the limit."""
    interval: tuple[float, float] | None = None
    """Of the difference; it allows for the number of comparisons."""
    told: dict[str, float] | None = None
    """What the searcher was told that the trial would have measured; None: nothing."""

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The stop of a JSON document; what is missing or null has its default."""
        return cls(**_held(cls, document, {"interval": tuple}))

    @staticmethod
    def as_document(stop: EarlyStop | None) -> dict[str, Any] | None:
        """The stop as a line of a journal holds it."""
        return None if stop is None else asdict(stop)


@dataclass(frozen=True)
class SideScores:
    """What a trial, or the untouched base, scores on the test data."""

    row: tuple[float, ...] = ()
    """By task in their order, NaN where a task has no test examples."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Every metric, by task."""
    per_example: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """Score of each test example, by task."""
    head_only: dict[str, dict[str, float]] | None = None
    """Of the base: what a linear head on its hidden states scores, by classification task."""
    head_only_per_example: dict[str, tuple[float, ...]] | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The side of a JSON document; what is missing or null has its default."""
        return cls(**_held(cls, document, _READERS))

    def as_document(self) -> dict[str, Any]:
        """The side as JSON has it; what only the base has is left out where it is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def read_all(cls, documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Self]:
        """The sides of a line of a journal, by trial."""
        return {name: cls.from_document(document) for name, document in documents.items()}

    @staticmethod
    def write_all(sides: Mapping[str, SideScores]) -> dict[str, dict[str, Any]]:
        """The sides as a line holds them."""
        return {name: side.as_document() for name, side in sides.items()}


@dataclass(frozen=True)
class TaskScores:
    """What a trial scores on one task at one moment: a cell of its accuracy matrix."""

    value: float = math.nan
    """The headline score, in [0, 1]."""
    examples: int = 0
    """How many of the first validation examples stand behind it."""
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    per_example: tuple[float, ...] = ()
    """Score of each of them."""

    @classmethod
    def read_all(cls, documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Self]:
        """The scores of a line of a journal, by task."""
        return {
            task: cls(**_held(cls, document, _CELL_READERS)) for task, document in documents.items()
        }

    @staticmethod
    def write_all(scores: Mapping[str, TaskScores]) -> dict[str, dict[str, Any]]:
        """The scores as a line holds them."""
        return {task: asdict(found) for task, found in scores.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _numbers(values: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(map(_number, values))


@dataclass(frozen=True)
class ExtensionSide:
    """What a trial scores at its end beside the trial that its sweep goes on from, as it was."""

    scores: dict[str, float] = field(default_factory=dict[str, float])
    """By task."""
    further: float | None = None
    """Its mean score on the further tasks minus that of the other; None where it is not known."""
    further_interval: list[float] | None = None
    """95 %, paired by example, as are the others."""
    earlier: float | None = None
    """The same on the tasks that the other had learnt: below 0 where something was lost."""
    earlier_interval: list[float] | None = None
    intervals: dict[str, list[float] | None] = field(
        default_factory=dict[str, "list[float] | None"]
    )
    """Of the difference on each task."""

    @classmethod
    def read_all(cls, documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Self]:
        """The sides of a line of a journal, by trial."""
        return {name: cls(**_held(cls, document, {})) for name, document in documents.items()}

    @staticmethod
    def write_all(sides: Mapping[str, ExtensionSide]) -> dict[str, dict[str, Any]]:
        """The sides as a line holds them."""
        return {name: asdict(side) for name, side in sides.items()}


def _by_task(scores: Mapping[str, Iterable[float | None]]) -> dict[str, tuple[float, ...]]:
    return {task: _numbers(values) for task, values in scores.items()}


def _by_name(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


_READERS: dict[str, Any] = {
    "row": _numbers, "repeats": tuple, "per_example": _by_task, "head_only_per_example": _by_task,
    "mean": _by_name, "spread": _by_name,
}  # fmt: skip


_CELL_READERS: dict[str, Any] = {"per_example": _numbers, "metrics": _by_name}


def _held(kind: Any, document: Mapping[str, Any], readers: Mapping[str, Any]) -> dict[str, Any]:
    """What a document says of the fields of a class; others are of a later version."""
    return {
        f.name: readers[f.name](document[f.name]) if f.name in readers else document[f.name]
        for f in fields(kind)
        if document.get(f.name) is not None
    }
