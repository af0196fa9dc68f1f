"""The champion beside a challenger, on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.measures.paired import Parts, paired_difference
from orchestrator.records.stage_report import DONE
from orchestrator.registry.champions.adapters import FoundAdapter, find_adapter
from orchestrator.registry.champions.champion import Champion, champion
from orchestrator.registry.champions.refusals import against
from orchestrator.registry.index.index import open_index
from orchestrator.registry.part import part_of

_TAIL = 0.025
"""Left out at each end of a 95 % interval."""


@dataclass(frozen=True)
class TaskDifference:
    """One task, scored by both."""

    task: str
    champion: float | None
    """On the examples that both were scored on, as is the challenger's; else on its own."""
    challenger: float | None
    examples: int | None
    """How many both were scored on; None where they cannot be paired."""
    interval: tuple[float, float] | None
    """95 %, paired, of the challenger's minus the champion's."""


@dataclass(frozen=True)
class Reading:
    """Both on one kind of data."""

    data: str
    """`validation` or `test`."""
    tasks: tuple[TaskDifference, ...]
    difference: float | None
    """The mean over the tasks that could be paired of the challenger's minus the champion's."""
    interval: tuple[float, float] | None
    """95 %, paired."""


@dataclass(frozen=True)
class Comparison:
    """A challenger beside the champion of a name."""

    name: str
    champion: Champion
    challenger: FoundAdapter
    readings: tuple[Reading, ...]
    against: tuple[str, ...]
    """What speaks against its promotion, a sentence each."""


def compare(
    storage: Path, name: str, challenger: str, *, tracking_uri: str | None = None
) -> Comparison:
    """Compare an adapter with the champion of a name, example by example.

    Args:
        storage: The storage folder.
        name: The champion's.
        challenger: `SWEEP/TRIAL` or `SWEEP/TRIAL@TASK`.
        tracking_uri: Where MLflow records; None: as the sweep says, else SQLite in `storage`.

    Returns:
        Both on the validation examples, and on the test examples where both were read. Examples
        are the same where the journals hold the same hash of a task's data.

    Raises:
        RegistryError: If there is no champion.
        UsageError: If there is no such adapter.
    """
    own = champion(storage, name, tracking_uri=tracking_uri)
    other = find_adapter(storage, challenger)
    readings = tuple(reading for reading in readings_of(own.found, other) if reading.tasks)
    return Comparison(name, own, other, readings, tuple(against(own.found, other)))


def readings_of(one: FoundAdapter, other: FoundAdapter) -> tuple[Reading, Reading]:
    """Two adapters on the same examples, by kind of data.

    Args:
        one: The one, in the place of the champion.
        other: The other, in the place of the challenger.

    Returns:
        On the validation and on the test examples; without tasks where neither was read.
    """
    mine, theirs = _examples(one), _examples(other)
    return (
        _reading("validation", one, other, mine["validation"], theirs["validation"]),
        _reading("test", one, other, mine["test"], theirs["test"]),
    )


def _examples(found: FoundAdapter) -> dict[str, dict[str, Sequence[float]]]:
    """The score of each example of an adapter, by kind of data and task."""
    folder, learnt = found.folder.path, found.card["learnt"]
    with open_index(folder.parent) as index:
        _, state = part_of(index, folder.name, [found.key.trial])
    record = state.trial(found.key.trial)
    report = record.by_stage.get((learnt - 1, DONE))
    known: dict[str, Sequence[float]] = {}
    known |= {} if report is None else {t: e for t, e in (report.per_example or {}).items() if e}
    known |= {
        task: scores.per_example
        for (row, task), scores in record.later.items()
        if row == learnt and scores.per_example
    }
    test: Mapping[str, Sequence[float]] = {}
    if not found.card["to_come"]:
        read = next((r for r in state.readings if r.reading and record.name in r.sides), None)
        test = {} if read is None else read.sides[record.name].per_example
    return {
        "validation": {task: known[task] for task in state.tasks if task in known},
        "test": {task: each for task, each in test.items() if each},
    }


def _reading(
    data: str, own: FoundAdapter, other: FoundAdapter, mine: Parts, theirs: Parts
) -> Reading:
    tasks: list[TaskDifference] = []
    paired: list[str] = []
    cut: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for task in own.card["tasks"] + own.card["to_come"]:
        before, after = _score(own.card, data, task), _score(other.card, data, task)
        if before is None and after is None:
            continue
        same = own.card["data"].get(task)
        count = min(len(mine.get(task, ())), len(theirs.get(task, ())))
        if not same or same != other.card["data"].get(task) or not count:
            tasks.append(TaskDifference(task, before, after, None, None))
            continue
        # Where one was screened: the first examples, which both were scored on.
        cut[task] = (theirs[task][:count], mine[task][:count])
        found = paired_difference({task: cut[task][0]}, {task: cut[task][1]})
        means = [sum(side) / count for side in cut[task]]
        tasks.append(TaskDifference(task, means[1], means[0], count, found.bounds(_TAIL)))
        paired.append(task)
    if not paired:
        return Reading(data, tuple(tasks), None, None)
    # The mean over tasks: each example adds its task's share.
    sides = [
        {task: [score / len(paired) for score in cut[task][side]] for task in paired}
        for side in (0, 1)
    ]
    whole = paired_difference(sides[0], sides[1])
    return Reading(data, tuple(tasks), whole.value, whole.bounds(_TAIL))


def _score(card: Mapping[str, object], data: str, task: str) -> float | None:
    """What a card says of a task; None where it was not measured."""
    if data == "test":
        test = card["test"]
        scores = test["scores"] if isinstance(test, Mapping) else {}
    else:
        rows = card["matrix"]
        scores = rows[-1]["scores"] if isinstance(rows, list) and rows else {}
    found = scores.get(task)
    return None if found is None else found["value"]
