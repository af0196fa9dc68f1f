"""What trials measure: all of the search on the same examples, those of the verdict on all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.measures.accuracy_matrix import NOT_MEASURED, AccuracyMatrix
from orchestrator.measures.objectives import ProbeReading, measures
from orchestrator.records.event_values import TaskScores
from orchestrator.records.stage_report import StageReport
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.task_kinds import LanguageModellingTask
from orchestrator.sweep.baselines import Controls, bounds
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.trial import Trial


@dataclass(frozen=True)
class Measured:
    """What one trial measures on some examples."""

    measures: dict[str, float]
    """By name; NaN where something was not scored."""
    examples: dict[str, tuple[float, ...]]
    """By task, its final score of each example, as many as `counts` says."""
    counts: Mapping[str, int]
    """By task, how many examples stand behind it."""
    controls: Controls
    """What it is compared with, on the same examples."""


class Measuring:
    """Computes measures from what the journal holds of a trial's scores."""

    def __init__(self, ledger: Ledger) -> None:
        """Begin.

        Args:
            ledger: The sweep's.
        """
        self._ledger = ledger

    def searched(self, trial: Trial) -> Measured:
        """What a whole trial measures on the examples that the search compares trials on.

        Args:
            trial: The trial; a repetition is compared with none of the search, and stands on all.

        Returns:
            Its measures.
        """
        if trial.of is not None:
            return self.on_all(trial)
        return self._on(trial, self._ledger.screened())

    def on_all(self, trial: Trial) -> Measured:
        """What a whole trial measures on all examples; NaN where it was scored on fewer."""
        return self._on(trial, self._ledger.every_example())

    def is_on_all(self, trial: Trial) -> bool:
        """Whether the measures that are recorded of a trial stand on all examples."""
        if trial.record.whole_examples is not None or trial.of is not None:
            return True
        return self._ledger.screened() == self._ledger.every_example()

    def _on(self, trial: Trial, counts: Mapping[str, int]) -> Measured:
        ledger = self._ledger
        # Its own order: a repetition may have learnt the tasks in another one than the sweep's.
        tasks = ledger.experiment_of(trial.name).tasks
        base, final = ledger.base_report(), ledger.last_report(trial)
        if base is None or final is None:
            raise AssertionError("measures are read of whole trials, once row 0 is known")
        controls = ledger.controls(counts)
        headed = tuple(ledger.data.tasks[task].has_head for task in tasks)
        everything = ledger.experiment.tasks
        before = base.on_first(everything, counts).row or ()
        zero_shot, reference = (
            dict(zip(everything, row, strict=True)) for row in (before, controls.reference_row)
        )
        first = tuple(zero_shot[task] for task in tasks)
        matrix = AccuracyMatrix(tasks, (first,), headed, ledger.experiment.inherited)
        cells = {} if trial.name == BASE_TRIAL else ledger.cells(trial.name)
        for learnt in range(1, final.task_index + 2):
            row = [_value(cells.get((learnt, task)), counts.get(task)) for task in tasks]
            # Where tasks are learnt jointly, only the last row is ever measured.
            matrix = matrix.with_row(row)
        return Measured(
            measures(
                matrix,
                reference=[reference[task] for task in tasks],
                probes=self.probes(base, final, cells),
                cost_s=final.seconds * ledger.experiment_of(trial.name).resources.workers,
                cost_tokens=float(final.tokens),
            ),
            self.examples(trial, counts),
            counts,
            controls,
        )

    def examples(self, trial: Trial, counts: Mapping[str, int]) -> dict[str, tuple[float, ...]]:
        """What a trial scores at its end on each example.

        Args:
            trial: The trial.
            counts: By task, on how many of the first examples.

        Returns:
            By task; without those that it was scored on with fewer examples.
        """
        if self._ledger.last_report(trial) is None or trial.name == BASE_TRIAL:
            return {}
        tasks, cells = self._ledger.experiment.tasks, self._ledger.cells(trial.name)
        own = {task: cells[(len(tasks), task)] for task in tasks if (len(tasks), task) in cells}
        return {
            task: scores.per_example[: counts.get(task)]
            for task, scores in own.items()
            if scores.examples >= counts.get(task, 0)
        }

    def probes(
        self,
        base: StageReport,
        final: StageReport,
        cells: Mapping[tuple[int, str], TaskScores],
    ) -> list[ProbeReading]:
        """What each probe read on the base and after some task; without those not read then."""
        ledger, readings = self._ledger, list[ProbeReading]()
        for name in ledger.experiment.probes:
            later = cells.get((len(ledger.experiment.tasks), name))
            before = (base.probes or {})[name]
            after = later.metrics if later is not None else (final.probes or {}).get(name)
            if after is None:
                continue
            spec = ledger.loaded.tasks[name]
            if isinstance(spec, LanguageModellingTask):
                key = "cross_entropy"
                readings.append(ProbeReading("language_modelling", before[key], after[key]))
            else:
                chance, metric = float(ledger.data.controls[name].get("chance", 0.0)), spec.metric
                readings.append(ProbeReading("choice", before[metric], after[metric], chance))
        return readings


def intervals_of(
    measured: Measured,
) -> tuple[list[float] | None, dict[str, list[float] | None]]:
    """The intervals of a trial's gain, and of its mean minus each control's, as journalled."""
    controls = measured.controls
    gain = controls.interval(measured.examples, controls.reference_examples)
    return bounds(gain), controls.intervals(measured.examples)


def _value(scores: TaskScores | None, count: int | None) -> float:
    """A cell on so many examples; NaN where it was scored on fewer."""
    if scores is None or (count is not None and scores.examples < count):
        return NOT_MEASURED
    if count is None or scores.examples == count:
        return scores.value
    own = scores.per_example[:count]
    return sum(own) / len(own) if own else math.nan
