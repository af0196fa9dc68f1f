"""Scoring cells of accuracy matrices later, from the adapters that trials have kept.

Before the verdict, the trials that it is between are scored on all examples and on every task after
each task. A cell is looked for among those that were scored before, by this sweep or by another
one, and journalled as soon as it is known: what is missing after an interruption is scored then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.data.prepared import PreparedData
from orchestrator.records.event_values import TaskScores
from orchestrator.records.events import CellsScored, TrialMeasured
from orchestrator.records.model_folder import adapter_flaw
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.experiment import experiment_received
from orchestrator.spec.task_kinds import computed_fields
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.measuring import Measuring, intervals_of
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.scores.readings import ReadingError, Side, read_sides
from orchestrator.sweep.scores.shared_base import SharedBase
from orchestrator.system.content_cache import ContentCache


class Scores(Protocol):
    """Who scores models."""

    def __call__(
        self, sides: Mapping[str, Side], data: PreparedData
    ) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Give, of each side as soon as it is known, its name and what `read_sides` says of it."""
        ...


def score_here(
    sides: Mapping[str, Side], data: PreparedData
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Score models one after the other in this process; see `Scores`."""
    base = SharedBase()
    for name, side in sides.items():
        yield from read_sides({name: side}, data, base).items()


@dataclass(frozen=True)
class Row:
    """Cells of one row that are to be scored."""

    trial: Trial
    learnt: int
    cells: Mapping[str, int]
    """By task or probe, the first example that is scored."""
    adapter: Path | None
    adapter_sha256: str | None


class Completion:
    """Scores what is missing of some trials' matrices."""

    def __init__(self, ledger: Ledger, cache: ContentCache, made_with: Any) -> None:
        """Begin.

        Args:
            ledger: The sweep's.
            cache: Where scored cells are kept.
            made_with: What every score follows from: the base, precision, code and so on; None
                where that is not known, so that nothing is kept.
        """
        self._ledger, self._cache, self._made_with = ledger, cache, made_with
        self._measuring = Measuring(ledger)

    def due(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those of some whole trials whose matrix, or what it says, is not known whole yet."""
        return [t for t in trials if any(self.missing(t)) or self._is_unmeasured(t)]

    def _is_unmeasured(self, trial: Trial) -> bool:
        """Whether measures on all examples were not recorded, after an interruption perhaps."""
        if trial.record.whole_examples is not None:
            return False
        return bool(trial.record.later) or not self._measuring.is_on_all(trial)

    def before_verdict(self, contenders: Iterable[Trial], score: Scores) -> None:
        """Score the whole matrices that the verdict stands on.

        Args:
            contenders: The trials that it is between.
            score: Scores models.

        Raises:
            SweepError: If that could not be run; the same command goes on.
        """
        trials = self.due(contenders)
        if not trials:
            return
        self._ledger.observer.note(
            "scoring the rest of the matrices that the verdict stands on: "
            f"{', '.join(trial.name for trial in trials)}"
        )
        try:
            self.complete(trials, score)
        except ReadingError as error:
            raise SweepError(
                f"The trials that the verdict is between could not be scored: {error}. What was "
                "scored is kept; once that is fixed, the same command goes on."
            ) from None

    def complete(self, trials: Sequence[Trial], score: Scores) -> None:
        """Score every cell that some whole trials lack, and record what they then measure.

        Args:
            trials: The trials.
            score: Scores models.

        Raises:
            ReadingError: If that could not be run.
        """
        self.score_rows([row for trial in trials for row in self.missing(trial)], score)
        for trial in trials:
            self.record_measures(trial)

    def record_measures(self, trial: Trial) -> None:
        """Record what a whole trial measures on all examples."""
        measured = self._measuring.on_all(trial)
        gain, intervals = intervals_of(measured)
        self._ledger.record(
            TrialMeasured(trial.name, dict(measured.counts), {**measured.measures}, gain, intervals)
        )

    def missing(self, trial: Trial, *, again: bool = False) -> list[Row]:
        """The cells of a whole trial that were not scored on all examples, and can be.

        Args:
            trial: The trial.
            again: Whether what could not be scored before is tried again.

        Returns:
            Rows of the matrix; those after which no adapter was kept are left out.
        """
        ledger, record = self._ledger, trial.record
        tasks, everything = ledger.experiment.tasks, ledger.every_example()
        cells = ledger.cells(trial.name)
        joint = ledger.learns_jointly(trial.name)
        rows: list[Row] = []
        for learnt in range(len(tasks) if joint else 1, len(tasks) + 1):
            wanted = {
                task: _begin(cells.get((learnt, task)), mergeable=not data.is_language_modelling)
                for index, task in enumerate(tasks)
                if not ((data := ledger.data.tasks[task]).has_head and index >= learnt)
                and _count(cells.get((learnt, task))) < everything.get(task, 0)
            }
            if learnt == len(tasks):
                final = ledger.last_report(trial)
                read = (final.probes or {}) if final is not None else {}
                probes = [name for name in ledger.experiment.probes if name not in read]
                wanted |= {name: 0 for name in probes if (learnt, name) not in cells}
            tried = {} if again else record.unscored
            asked = {t: b for t, b in wanted.items() if (learnt, t) not in tried}
            if asked and (row := self.row(trial, learnt, asked)) is not None:
                rows.append(row)
        return rows

    def row(self, trial: Trial, learnt: int, cells: Mapping[str, int]) -> Row | None:
        """Cells of a trial after so many tasks; None where no adapter was kept then."""
        record, folder = trial.record, self._ledger.folder
        if trial.name == BASE_TRIAL:
            return Row(trial, 0, cells, None, None)
        if learnt == len(self._ledger.experiment.tasks):
            if record.adapter is None:
                return None
            return Row(trial, learnt, cells, folder.within(record.adapter), record.adapter_sha256)
        kept = record.task_adapters.get(learnt)
        return None if kept is None else Row(trial, learnt, cells, folder.within(kept[0]), kept[1])

    def score_rows(self, rows: Sequence[Row], score: Scores) -> None:
        """Score some cells, unless they were before, and journal them.

        Args:
            rows: Which.
            score: Scores models.

        Raises:
            ReadingError: If that could not be run.
        """
        asked: dict[str, Side] = {}
        by_name: dict[str, tuple[Row, dict[str, Any]]] = {}
        for row in rows:
            name = f"{row.trial.name}-after-{row.learnt}"
            wrong = self._flaw(row)
            if wrong is not None:
                self._journal(row, {}, dict.fromkeys(row.cells, wrong))
                continue
            known = {task: self._known(row, task) for task in row.cells}
            found = {task: kept for task, kept in known.items() if kept is not None}
            left = {task: begin for task, begin in row.cells.items() if task not in found}
            if not left:
                self._journal(row, found, {})
                continue
            experiment = self._ledger.experiment_of(row.trial.name).for_workers()
            asked[name] = Side(experiment_received(experiment), row.adapter, left)
            by_name[name] = row, found
        for name, document in score(asked, self._ledger.data) if asked else ():
            row, found = by_name[name]
            unread = document.get("unread")
            fresh = {} if unread else _by_task(document, asked[name].cells or {})
            for task, scores in fresh.items():
                self._keep(row, task, scores)
            failed = dict.fromkeys(asked[name].cells or {}, str(unread)) if unread else {}
            self._journal(row, {**found, **fresh}, failed)

    def _flaw(self, row: Row) -> str | None:
        """Why the adapter of some cells is not the one that the journal vouches for."""
        if row.adapter is None:
            return None
        wrong = adapter_flaw(row.adapter, row.adapter_sha256, row.trial.name)
        return None if wrong is None else f"its adapter {row.adapter.name} is not used: {wrong}"

    def _journal(self, row: Row, found: Mapping[str, Any], unscored: Mapping[str, str]) -> None:
        before = self._ledger.cells(row.trial.name)
        scores = {
            task: _merged(before.get((row.learnt, task)), document, row.cells[task])
            for task, document in found.items()
        }
        loaded = self._ledger.loaded
        named = {*loaded.experiment.tasks, *loaded.experiment.probes}
        files = {
            task: self._ledger.data.tasks[task].spec.model_dump(mode="json")
            for task in row.cells
            if task not in named
        }
        self._ledger.record(
            CellsScored(row.trial.name, row.learnt, scores, dict(unscored) or None, files or None)
        )

    # ----------------------------------------------------------------------- scored before

    def _key(self, row: Row, task: str) -> Any:
        if self._made_with is None or (row.adapter is not None and row.adapter_sha256 is None):
            return None
        data = self._ledger.data
        return {
            **self._made_with,
            "adapter": row.adapter_sha256,
            "task": computed_fields(data.tasks[task].spec),
            "data": data.hashes[task],
            "from": row.cells[task],
        }

    def _known(self, row: Row, task: str) -> dict[str, Any] | None:
        key = self._key(row, task)
        return None if key is None else self._cache.read("cell", key)

    def _keep(self, row: Row, task: str, document: Mapping[str, Any]) -> None:
        key = self._key(row, task)
        if key is not None:
            self._cache.write("cell", key, document)


def _count(scores: TaskScores | None) -> int:
    return 0 if scores is None else scores.examples


def _begin(scores: TaskScores | None, *, mergeable: bool) -> int:
    """The first example that is not scored yet."""
    known = scores is not None and mergeable and len(scores.per_example) == scores.examples
    return _count(scores) if known else 0


def _by_task(document: Mapping[str, Any], cells: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """What was read of a side, by task."""
    return {
        task: {
            "value": value,
            "metrics": document["metrics"][task],
            "per_example": list(document["per_example"][task]),
        }
        for task, value in zip(cells, document["row"], strict=True)
    }


def _merged(before: TaskScores | None, found: Mapping[str, Any], begin: int) -> TaskScores:
    """A cell of what was known of its first examples, and what was found of the rest."""
    fresh = TaskScores(
        found["value"], len(found["per_example"]), found["metrics"], tuple(found["per_example"])
    )
    if before is None or not begin:
        return fresh
    each = (*before.per_example[:begin], *fresh.per_example)
    share = begin / len(each)
    metrics = {
        name: share * before.metrics[name] + (1.0 - share) * value
        for name, value in fresh.metrics.items()
        # That of a whole corpus is no mean over its texts.
        if name in before.metrics and name != "bleu"
    }
    return TaskScores(sum(each) / len(each), len(each), metrics, each)
