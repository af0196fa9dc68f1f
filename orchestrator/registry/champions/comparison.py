"""The champion beside a challenger, on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.measures.paired import Parts, paired_difference
from orchestrator.records.event import Line
from orchestrator.records.events import CellsScored, read_event
from orchestrator.records.journal_lines import read_journal
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.sweep_state import SweepState
from orchestrator.registry.champions.adapters import FoundAdapter, find_adapter
from orchestrator.registry.champions.champion import Champion, champion
from orchestrator.registry.champions.refusals import against

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
    journals: dict[Path, tuple[list[Line], SweepState]] = {}
    sides: list[dict[str, dict[str, Sequence[float]]]] = []
    for found in (own.found, other):
        folder = found.folder.path
        if folder not in journals:
            lines = read_journal(folder)
            journals[folder] = (lines, SweepState.of(lines, whole=False))
        sides.append(_examples(*journals[folder], found))
    readings = tuple(
        _reading(data, own.found, other, sides[0].get(data, {}), sides[1].get(data, {}))
        for data in ("validation", "test")
    )
    shown = tuple(reading for reading in readings if reading.tasks)
    return Comparison(name, own, other, shown, tuple(against(own.found, other)))


def _examples(
    lines: Sequence[Line], state: SweepState, found: FoundAdapter
) -> dict[str, dict[str, Sequence[float]]]:
    """The score of each example of an adapter, by kind of data and task."""
    record, learnt = state.trial(found.key.trial), found.card["learnt"]
    validation: dict[str, Sequence[float]] = {}
    number = record.lines.get((learnt - 1, DONE))
    if number is not None:
        report = StageReport.from_document(lines[number]["report"])
        validation |= {t: each for t, each in (report.per_example or {}).items() if each}
    for number in record.later_lines:
        event = read_event(lines[number])
        if isinstance(event, CellsScored) and event.learnt == learnt:
            validation |= {t: s.per_example for t, s in event.scores.items() if s.per_example}
    made = {"validation": {t: validation[t] for t in state.tasks if t in validation}}
    if not found.card["to_come"]:
        test = next((r for r in state.readings if r.reading and record.name in r.sides), None)
        if test is not None:
            made["test"] = {t: e for t, e in test.sides[record.name].per_example.items() if e}
    return made


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
