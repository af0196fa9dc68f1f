"""What trials have scored at the rungs of a race, read from the journal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from orchestrator.measures.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.measures.objectives import MEASURES, Outcome, ProbeReading
from orchestrator.measures.paired import Parts
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.measuring import Measuring
from orchestrator.sweep.deciding.race import Rung

PARTS_KEPT = 256
"""At how many rungs of trials the score of each example is at hand; others are read again."""
STEP = 1e-3
"""By which a cell is moved to see what a measure makes of it. Measures are linear in their cells,
piece by piece."""

_Column = tuple[float, ...]


@dataclass(frozen=True)
class _Moment:
    """What is known of a trial at a rung."""

    outcome: Outcome
    """Of the tasks learnt by then, as if they were the whole sequence."""
    examples: Mapping[tuple[int, int], _Column]
    """By cell of its matrix, row and column, the score of each example."""
    probed: Sequence[tuple[str, _Column]]
    """Name of each probe of `outcome`, and the score of each of its examples or windows."""


class RungStandings:
    """The trials of a sweep at its rungs; see `race.Standings`.

    Between two tasks the objectives are those of the sequence that ends there. Within a task, the
    earlier tasks are taken to score what they did before it.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Begin.

        Args:
            ledger: The sweep's.
        """
        self._ledger, self._measuring = ledger, Measuring(ledger)
        rule = ledger.experiment.champion
        names = [*ledger.experiment.objectives, *rule.subject_to, rule.maximize]
        self._names = tuple(dict.fromkeys(names))
        self._values: dict[tuple[str, Rung], dict[str, float]] = {}
        self._kept_parts = lru_cache(maxsize=PARTS_KEPT)(self._parts)

    def values(self, trial: str, rung: Rung) -> dict[str, float] | None:
        """By measure, NaN of what cannot be measured yet; None before row 0 is known."""
        if (trial, rung) not in self._values:
            moment = self._moment(trial, rung)
            if moment is None:
                return None
            found = {name: float(MEASURES[name].of(moment.outcome)) for name in self._names}
            self._values[(trial, rung)] = found
        return self._values[(trial, rung)]

    def parts(self, trial: str, rung: Rung) -> Mapping[str, Parts]:
        """By measure, what each example adds; without measures that no example stands behind."""
        return self._kept_parts(trial, rung)

    def _parts(self, trial: str, rung: Rung) -> dict[str, Parts]:
        moment = self._moment(trial, rung)
        return {} if moment is None else {n: p for n in self._names if (p := _parts_of(n, moment))}

    def _moment(self, name: str, rung: Rung) -> _Moment | None:
        ledger = self._ledger
        base, trial = ledger.base_report(), ledger.trials[name]
        if base is None or rung not in trial.record.lines:
            return None
        index, fraction = rung
        line = ledger.journal.lines[trial.record.lines[rung]]
        report = StageReport.from_document(line["report"])
        tasks = ledger.experiment.tasks[: index + 1]
        counts = self._counts(report, tasks)
        examples = self._examples(name, report, tasks, counts)
        controls = ledger.controls(counts)
        row_0 = base.on_first(ledger.experiment.tasks, counts).row or ()
        headed = tuple(ledger.data.tasks[task].has_head for task in tasks)
        matrix = AccuracyMatrix(tasks, (row_0[: len(tasks)],), headed)
        for row in range(1, index + 2):
            matrix = matrix.with_row([_mean(examples.get((row, j))) for j in range(len(tasks))])
        probes = self._measuring.probes(base, report, {})
        read = [probe for probe in ledger.experiment.probes if probe in (report.probes or {})]
        outcome = Outcome(
            matrix,
            controls.reference_row[: len(tasks)],
            probes if fraction == DONE else (),
            report.seconds * ledger.experiment_of(name).resources.workers,
            float(report.tokens),
        )
        scores = report.probe_per_example or {}
        return _Moment(outcome, examples, [(probe, scores.get(probe, ())) for probe in read])

    def _counts(self, report: StageReport, tasks: Sequence[str]) -> dict[str, int]:
        """On how many examples of each task trials are compared at this rung."""
        screened = self._ledger.screened()
        counts = {task: screened.get(task, 0) for task in tasks}
        if report.row is None and report.examples:
            counts |= {t: min(counts[t], n) for t, n in report.examples.items() if t in counts}
        return counts

    def _examples(
        self, name: str, report: StageReport, tasks: Sequence[str], counts: Mapping[str, int]
    ) -> dict[tuple[int, int], _Column]:
        cells, index = self._ledger.cells(name), report.task_index
        rows = index + 1 if report.row is not None else index
        found: dict[tuple[int, int], _Column] = {}
        for row in range(1, rows + 1):
            for column, task in enumerate(tasks):
                scores = cells.get((row, task))
                if scores is not None and len(scores.per_example) >= counts[task] > 0:
                    found[(row, column)] = scores.per_example[: counts[task]]
        if report.row is None:
            now = (report.per_example or {}).get(tasks[index], ())
            if len(now) >= counts[tasks[index]] > 0:
                found[(index + 1, index)] = now[: counts[tasks[index]]]
            before = {j: found[(index, j)] for j in range(index) if (index, j) in found}
            found |= {(index + 1, j): column for j, column in before.items()}
        return found


def _mean(column: _Column | None) -> float:
    return sum(column) / len(column) if column else NOT_MEASURED


def _parts_of(name: str, moment: _Moment) -> dict[str, Any]:
    """What each example adds to a measure: its scores, by what the measure makes of their cells."""
    import numpy as np

    outcome, measure = moment.outcome, MEASURES[name]
    value = float(measure.of(outcome))
    if not math.isfinite(value):
        return {}
    parts: dict[str, Any] = {}
    for (row, column), scores in moment.examples.items():
        moved = float(measure.of(replace(outcome, matrix=_moved(outcome.matrix, row, column))))
        weight = (moved - value) / STEP
        if abs(weight) > 1e-9 and math.isfinite(weight):
            task = outcome.matrix.tasks[column]
            parts[task] = parts.get(task, 0.0) + weight * np.asarray(scores, dtype=np.float64)
    for place, (probe, scores) in enumerate(moment.probed if outcome.probes else ()):
        reading = outcome.probes[place]
        moved = float(measure.of(replace(outcome, probes=_read_higher(outcome.probes, place))))
        weight = (moved - value) / STEP
        if abs(weight) > 1e-9 and scores:
            each = np.asarray(scores, dtype=np.float64)
            if reading.kind == "language_modelling":  # windows share in exp(-nats per token)
                each = -each / each.mean()
            parts[f"probe {probe}"] = weight * each
    return parts


def _read_higher(probes: Sequence[ProbeReading], place: int) -> list[ProbeReading]:
    """The probes, one of which has read a little more."""
    changed = list(probes)
    changed[place] = replace(probes[place], after=probes[place].after + STEP)
    return changed


def _moved(matrix: AccuracyMatrix, row: int, column: int) -> AccuracyMatrix:
    """The matrix with one cell a little larger."""
    rows = [list(each) for each in matrix.rows]
    rows[row][column] += STEP
    return replace(matrix, rows=tuple(map(tuple, rows)))
