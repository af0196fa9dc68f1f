"""One trial's part in the states that trials share: what it keeps for others, and takes of them."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from curlora_kinds.retentions.table import RETENTIONS
from orchestrator.loop.kept_states import KeptStates, maker_of
from orchestrator.loop.requests import Taken
from orchestrator.loop.task_keys import TaskKeys
from orchestrator.loop.trial_checkpoints import SetAside
from orchestrator.loop.trial_state import TrialState
from orchestrator.records.stage_report import StageReport
from orchestrator.spec.experiment import Experiment
from orchestrator.system.seals import Maker
from orchestrator.system.strict_json import without_nan

TASK_FILE = "task.json"
_Value = TypeVar("_Value")


class TakesOver(Protocol):
    """An engine, as far as it goes on from what another trial has learnt."""

    def load_learnt(self, folder: Path, follows: tuple[str, ...]) -> None:
        """Take over trained tensors, and those of the retention whose names begin so."""


@dataclass(frozen=True)
class _Found:
    """A state that lies ready."""

    folder: Path
    taken: Taken
    reports: tuple[StageReport, ...]
    """Those on the way to the task's end, as its trial made them."""


_Looked: TypeAlias = tuple[_Found | None, SetAside | None]
"""What lies ready, and what was set aside because it is damaged."""


def _the_same(value: _Value) -> _Value:
    return value


class SharedTasks:
    """The tasks of one trial that others learn alike."""

    def __init__(
        self,
        store: KeptStates,
        keys: TaskKeys,
        maker: Maker,
        experiment: Experiment,
        *,
        origin: str,
        aside: Callable[[SetAside], None],
    ) -> None:
        """Name what is shared.

        Args:
            store: Where states are kept.
            keys: What the trial's own follow from.
            maker: The trial.
            experiment: Its experiment, overrides applied.
            origin: The name of its sweep, for people.
            aside: Told of a state that is damaged.
        """
        self._store, self._keys, self._maker = store, keys, maker
        self._tasks, self._origin, self._aside = experiment.tasks, origin, aside
        self._follows = RETENTIONS[experiment.method.retention.kind].follows
        self._on_the_way: tuple[StageReport, ...] = ()

    def keep(self, checkpoint: Path, state: TrialState) -> None:
        """Keep the state after the task that was last reported.

        Args:
            checkpoint: What was saved of the trial at the task's end.
            state: Where it is now.
        """
        index = state.reports[-1].task_index
        if not 0 <= index < len(self._keys.learnt):  # of the untouched base it is -1
            return
        document: dict[str, Any] = {
            "sweep": self._origin,
            "tasks": self._tasks,
            "scored": self._keys.scored[index],
            "reports": [r.as_document() for r in state.reports if r.task_index == index],
        }

        def write(fresh: Path) -> None:
            from orchestrator.engines.checkpoints import RETENTION_FILE, WEIGHTS_FILE

            _share(checkpoint / WEIGHTS_FILE, fresh)
            if self._follows:
                _share(checkpoint / RETENTION_FILE, fresh)
            text = json.dumps(without_nan(document))
            (fresh / TASK_FILE).write_text(text, encoding="utf-8")

        self._store.keep(self._keys.learnt[index], write, self._maker)

    def take(
        self,
        index: int,
        engine: TakesOver,
        *,
        first: bool = True,
        share: Callable[[_Looked], _Looked] = _the_same,
    ) -> Taken | None:
        """Go on from what another trial has learnt of a task, where that is kept.

        Args:
            index: The task, which has just begun.
            engine: Takes it over.
            first: Whether this is the first worker, which looks for it.
            share: Gives what the first worker has found.

        Returns:
            What is taken over; None where the task is to be learnt.
        """
        if index >= len(self._keys.learnt):
            return None
        found, damaged = share(self._look(index) if first else (None, None))
        if damaged is not None:
            self._aside(damaged)
        if found is None:
            return None
        engine.load_learnt(found.folder, self._follows)
        self._on_the_way = found.reports
        return found.taken

    def on_the_way(self, end: StageReport) -> list[StageReport]:
        """The reports before that of a task's end which are taken over with it; given once."""
        found, self._on_the_way = self._on_the_way, ()
        return [replace(r, taken_from=end.taken_from, strength=end.strength) for r in found]

    def _look(self, index: int) -> _Looked:
        folder, damaged = self._store.find(self._keys.learnt[index])
        if folder is None:
            return None, damaged
        document = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        sweep, trial = maker_of(folder)
        source = trial if sweep == self._maker.sweep else f"{document['sweep']}/{trial}"
        reports = [
            replace(StageReport.from_document(r), taken_from=None) for r in document["reports"]
        ]
        *inside, end = reports
        taken = Taken(end.step, end.tokens, end.seconds, source)
        if document["scored"] != self._keys.scored[index]:
            return _Found(folder, taken, ()), None
        own = replace(end, row=self._row(end, document["tasks"]), taken_from=source)
        return _Found(folder, replace(taken, report=own), tuple(inside)), None

    def _row(self, report: StageReport, tasks: list[str]) -> tuple[float, ...]:
        """A row of the matrix of other tasks, or in another order, as the trial's own."""
        scores = dict(zip(tasks, report.row or (), strict=True))
        return tuple(scores.get(task, math.nan) for task in self._tasks)


def _share(file: Path, folder: Path) -> None:
    """Give a file that never changes another name, or copy it where that cannot be."""
    try:
        os.link(file, folder / file.name)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, folder / file.name)
