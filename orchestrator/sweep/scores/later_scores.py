"""Scoring a trial after its sweep: cells that it lacks, and tasks that nobody thought of then.

It needs the adapters that the trial has kept and the data, no Ray, and not the experiment file: the
journal holds what the sweep was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.base.errors import ModelError
from orchestrator.data.formats.placed_row import DataError
from orchestrator.loop.task_sequence import scored_of
from orchestrator.records.errors import JournalError, TrackingError
from orchestrator.records.event import Line
from orchestrator.records.journal import Journal
from orchestrator.records.sweep_state import SweepState
from orchestrator.records.trial_record import BASE_TRIAL
from orchestrator.spec.load import LoadedExperiment
from orchestrator.spec.task_files import TaskFileError
from orchestrator.spec.task_kinds import TaskSpec
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.sweep.errors import SweepError
from orchestrator.sweep.mlflow_sync import MlflowSync
from orchestrator.sweep.protocols import Observer
from orchestrator.sweep.provenance import ChangedSweepError
from orchestrator.sweep.scores.completion import Completion, Row, score_here
from orchestrator.sweep.scores.reopened import as_recorded, reopened


@dataclass(frozen=True)
class Asked:
    """What is to be scored of a trial."""

    trial: str
    full: bool = False
    """Every cell of the matrix; else those that the sweep's measures need, on all examples."""
    tasks: tuple[TaskSpec, ...] = ()
    """Tasks that the sweep does not have. Where some are named and `full` is not, they alone are
    scored, after the last task and on the untouched base; with `full` after each task."""
    base: Path | None = None
    """Where the base is now, if it was moved."""

    @property
    def own(self) -> bool:
        """Whether the sweep's own tasks are scored."""
        return self.full or not self.tasks


def score_later(folder: Path, asked: Asked, observer: Observer) -> tuple[SweepState, list[Line]]:
    """Score what a trial was not scored on, and journal it.

    What was scored before, by any sweep with this storage, is not scored again.

    Args:
        folder: The sweep's folder.
        asked: What is to be scored.
        observer: Who is told what happens.

    Returns:
        What the journal says then, and its lines.

    Raises:
        SweepError: If it cannot be done; one message for the user.
    """
    try:
        with Journal(folder) as journal:
            state = SweepState.of(journal.lines, whole=False)
            _check(state, asked)
            loaded = as_recorded(state, asked.base)
            _score(journal, loaded, asked, observer)
            projection = MlflowSync(loaded.experiment, folder.parent, journal, observer)
            projection.catch_up(running=False)
            lines = list(journal.lines)
            return SweepState.of(lines), lines
    except (
        JournalError, DataError, ModelError, ChangedSweepError, TrackingError, TaskFileError,
    ) as error:  # fmt: skip
        raise SweepError(str(error)) from None


def _check(state: SweepState, asked: Asked) -> None:
    record, own = state.everything[asked.trial], {*state.task_files}
    if asked.trial != BASE_TRIAL and record.state != "COMPLETE":
        raise SweepError(
            f"Trial {asked.trial} is {record.state.lower()}: only a trial that has learnt all of "
            "its tasks is scored later."
        )
    for task in asked.tasks:
        if task.name in own:
            raise SweepError(
                f"The sweep has a task {task.name!r} already: `--full` scores the trial on it "
                "after each task. Give another task of that name another name in its file."
            )
        if task.has_head:
            raise SweepError(
                f"The task {task.name!r} has `head: linear`, and a head that was never trained "
                "says nothing; use `head: label_words` in its file."
            )
    if asked.trial == BASE_TRIAL and asked.own:
        raise SweepError(
            "The untouched base was scored on all tasks of the sweep when that began; name another "
            "task with `--task`."
        )


def _score(journal: Journal, loaded: LoadedExperiment, asked: Asked, observer: Observer) -> None:
    sweep = reopened(journal, loaded, observer, own=asked.own, others=asked.tasks)
    ledger = sweep.ledger
    completion = Completion(ledger, sweep.cache, sweep.follows)
    trial = ledger.trials[asked.trial]
    with ledger.cards.following(journal.lines, observer.note):
        completion.score_rows(_rows(completion, ledger, trial, asked), score_here)
        if asked.own:
            completion.record_measures(trial)


def _rows(completion: Completion, ledger: Ledger, trial: Trial, asked: Asked) -> list[Row]:
    """The cells that are asked for and not known."""
    last = len(ledger.experiment.tasks)
    wanted: dict[int, dict[str, int]] = {}
    if asked.own:
        wanted = {
            row.learnt: _needed(ledger, row, asked) for row in completion.missing(trial, again=True)
        }
    others = {task.name: 0 for task in asked.tasks}
    alone = not asked.full or ledger.learns_jointly(trial.name)
    for learnt in [last] if alone else range(1, last + 1):
        wanted[learnt] = {**wanted.get(learnt, {}), **_unknown(trial, learnt, others)}
    rows = [completion.row(trial, n, cells) for n, cells in sorted(wanted.items()) if cells]
    base = ledger.trials[BASE_TRIAL]
    if others and trial is not base:
        unknown = _unknown(base, 0, others)
        rows.append(completion.row(base, 0, unknown) if unknown else None)
    return [row for row in rows if row is not None]


def _unknown(trial: Trial, learnt: int, others: Mapping[str, int]) -> dict[str, int]:
    learnt = 0 if trial.name == BASE_TRIAL else learnt
    return {task: 0 for task in others if (learnt, task) not in trial.record.later}


def _needed(ledger: Ledger, row: Row, asked: Asked) -> dict[str, int]:
    """Those of some cells that the sweep's measures need, or all."""
    scored, tasks = scored_of(ledger.experiment_of(row.trial.name)), ledger.experiment.tasks
    if asked.full or scored.cells is None:
        return dict(row.cells)
    own = {tasks[column] for learnt, column in scored.cells if learnt == row.learnt}
    own |= {*ledger.experiment.probes} if scored.probes else set[str]()
    return {task: begin for task, begin in row.cells.items() if task in own}


def unscored_words(state: SweepState, trial: str) -> Sequence[str]:
    """What could not be scored of a trial, and why; a sentence each."""
    found: dict[str, list[Any]] = {}
    for (learnt, task), why in state.everything[trial].unscored.items():
        found.setdefault(why, []).append(f"{task} after {learnt}")
    return [f"not scored: {', '.join(cells)}: {why}" for why, cells in found.items()]
