"""The tasks that a trial learns one after the other (or jointly), its probes, batches and rungs."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curlora_kinds.adapters.table import ADAPTERS
from orchestrator.data.items import Example
from orchestrator.data.model_inputs import epoch_batches
from orchestrator.data.prepared import PreparedData, PreparedTask
from orchestrator.measures.matrix_cells import Cells, learnt_cells
from orchestrator.measures.needs import need_probes, needed_cells
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.methods import EarlyStoppingSpec
from orchestrator.spec.retention_settings import RetentionWithSources

if TYPE_CHECKING:
    from curlora.retention.protocol import Retention


RUNGS = (0.25, 0.5)
"""Shares of a task after which a trial reports, besides the task's end."""


@dataclass(frozen=True)
class Start:
    """Where to go on: how many steps of the current task are done, and what they cost."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    held_out_best: float | None = None
    held_out_waited: int = 0
    elsewhere: int = 0
    """How many tasks the tensors that it goes on from have learnt in another trial."""
    losses: tuple[float, ...] = ()
    """Of the steps since the last report, where it was saved between two reports."""
    rates: tuple[float, ...] = ()
    """Learning rates of these steps."""


@dataclass(frozen=True)
class Scored:
    """What of the accuracy matrix is scored while a trial learns; row 0 always is, whole."""

    cells: Cells | None = None
    """Which cells; None: every cell."""
    examples: int | None = None
    """How many validation examples of a task, at most; None: all."""
    probes: bool = True
    """Whether probes are read after the last task."""
    later: bool = True
    """Whether the other rows can be scored later, so that few examples are enough now."""


ALL_TASKS = "all tasks"
"""What is learnt where the tasks are learnt jointly."""


@dataclass(frozen=True)
class Stage:
    """What is learnt between two rows of the matrix: a task, or all of them jointly."""

    name: str
    index: int
    """The last task that has been learnt after it, counted from 0."""
    tasks: tuple[PreparedTask, ...]


@dataclass(frozen=True)
class TaskSequence:
    """What is learnt, what is only measured, and how long."""

    tasks: tuple[PreparedTask, ...]
    probes: tuple[PreparedTask, ...]
    batch_size: int
    epochs: int
    seed: int
    rung_examples: int | None = None
    probes_once: bool = False
    """Whether the probes wait for the last task."""
    joint: bool = False
    """Whether all tasks are learnt at once."""
    early_stopping: EarlyStoppingSpec | None = None
    sources: tuple[tuple[Example, ...], ...] = ()
    """Source sets that the retention reads before the first task."""
    scored: Scored = Scored()
    """What of it is scored."""
    inherited: int = 0
    """How many tasks, from the first, another trial has learnt; they are not learnt again."""
    fresh: bool = False
    """Whether nothing of that trial is taken over, so that the sequence begins after them."""
    raced: bool = False
    """Whether trials may be stopped early, by the score of each example at each rung."""

    @property
    def stages(self) -> list[Stage]:
        """What is learnt, in order."""
        if self.joint:
            return [Stage(ALL_TASKS, len(self.tasks) - 1, self.tasks)]
        first = self.inherited if self.fresh else 0
        return [Stage(t.name, i, (t,)) for i, t in enumerate(self.tasks) if i >= first]

    @property
    def begins_from_nothing(self) -> bool:
        """Whether the retention of a trial that has reported nothing has seen nothing."""
        return self.fresh or self.joint or not self.inherited

    def inherits(self, stage: Stage) -> bool:
        """Whether another trial has learnt a stage, so that it is only scored."""
        return not self.joint and stage.index < self.inherited

    def tasks_after(self, learnt: int) -> tuple[tuple[PreparedTask, int | None], ...]:
        """The tasks that are scored once so many are learnt, each with the number of examples.

        Args:
            learnt: How many tasks have been learnt; 0 is the untouched base.

        Returns:
            Tasks, and on how many of their first validation examples; None: on all.
        """
        cells = None if self._is_reference(learnt) else self.scored.cells
        return tuple(
            (task, self._examples(task, learnt))
            for index, task in enumerate(self.tasks)
            # A head that has not been trained yet says nothing: there is no such score.
            if (cells is None or (learnt, index) in cells)
            and not (task.has_head and (index >= learnt or (self.fresh and index < self.inherited)))
        )

    def _is_reference(self, learnt: int) -> bool:
        """Whether trials are compared with this row: the base's, or another trial's as it was."""
        return learnt == 0 or (learnt == self.inherited and not self.fresh)

    def _examples(self, task: PreparedTask, learnt: int) -> int | None:
        last_chance = learnt < len(self.tasks) and not self.scored.later
        # The score of running text is no mean over its windows, of which some could be left out.
        whole = self._is_reference(learnt) or last_chance or task.is_language_modelling
        asked = self.scored.examples
        return None if whole or asked is None or asked >= len(task.validation) else asked

    @property
    def examples_at_rungs(self) -> int | None:
        """On how many examples a task is scored before its end; None: on all."""
        asked = [n for n in (self.rung_examples, self.scored.examples) if n is not None]
        return min(asked, default=None)

    def probes_after(self, learnt: int) -> tuple[PreparedTask, ...]:
        """The probes that are measured once so many tasks are learnt; all on the untouched base."""
        inside = 0 < learnt < len(self.tasks)
        is_lazy = self.scored.cells is not None and not self.raced
        waits = inside and (self.probes_once or is_lazy)
        return () if waits or (learnt and not self.scored.probes) else self.probes

    def examples(self, stage: Stage) -> tuple[Example, ...]:
        """The training examples of a stage that are learnt."""
        return tuple(e for task in stage.tasks for e in self._parts(task)[0])

    def held_out(self, stage: Stage) -> tuple[Example, ...]:
        """The training examples of a stage that only say when to stop."""
        return tuple(e for task in stage.tasks for e in self._parts(task)[1])

    def _parts(self, task: PreparedTask) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        if self.early_stopping is None:
            return task.train, ()
        order = list(task.train)
        random.Random(f"{self.seed}/{task.name}/held out").shuffle(order)
        count = min(max(1, round(self.early_stopping.held_out * len(order))), len(order) - 1)
        return tuple(order[count:]), tuple(order[:count])

    def batches(self, stage: Stage) -> list[tuple[Example, ...]]:
        """The optimiser steps of a stage."""
        return epoch_batches(
            self.examples(stage),
            self.batch_size,
            seed=self.seed * 1_000_003 + stage.index,
            epochs=self.epochs,
        )

    def replayed(
        self, retention: Retention, current: int, stage: Stage, step: int
    ) -> tuple[Example, ...]:
        """The examples of earlier tasks that a retention adds to a batch."""
        rows = retention.rows(current, stage.index, step)
        learnt = {task: self._parts(self.tasks[task])[0] for task in {task for task, _ in rows}}
        return tuple(learnt[task][place] for task, place in rows)


def rung_steps(steps: int) -> dict[int, float]:
    """The steps after which a task of `steps` steps reports, with the share each stands for.

    Very short tasks have fewer rungs: no rung at 0 steps, none at the end.

    Args:
        steps: Optimiser steps of the task.

    Returns:
        Steps taken to share of the task.
    """
    rungs: dict[int, float] = {}
    for share in RUNGS:
        step = math.floor(steps * share)
        if 0 < step < steps and step not in rungs:
            rungs[step] = share
    return rungs


def task_sequence(experiment: Experiment, data: PreparedData) -> TaskSequence:
    """What an experiment learns and measures."""
    method = experiment.method
    retention = method.retention
    named = retention.sources if isinstance(retention, RetentionWithSources) else ()
    return TaskSequence(
        tasks=tuple(data.tasks[name] for name in experiment.tasks),
        probes=tuple(data.tasks[name] for name in experiment.probes),
        batch_size=experiment.training.batch_size,
        epochs=experiment.training.epochs,
        seed=experiment.training.seed,
        rung_examples=experiment.data.rung_examples,
        probes_once=experiment.data.probe_after == "last_task",
        joint=method.sequence == "joint",
        early_stopping=method.early_stopping,
        sources=tuple(data.tasks[name].train for name in named),
        scored=scored_of(experiment),
        inherited=experiment.inherited,
        fresh=experiment.extends is not None and experiment.extends.begin == "fresh",
        raced=experiment.races,
    )


def scored_of(experiment: Experiment) -> Scored:
    """What of the accuracy matrix of a trial is scored while it learns.

    Args:
        experiment: The trial's.

    Returns:
        Everything, or what the measures need that trials are chosen by.
    """
    if experiment.scoring == "full":
        return Scored()
    names = experiment.deciding_measures
    joint, tasks = experiment.method.sequence == "joint", len(experiment.tasks)
    cells = needed_cells(names, tasks, joint=joint)
    if experiment.races and not joint:
        cells |= learnt_cells(tasks)
    return Scored(
        cells,
        experiment.screen,
        probes=need_probes(names),
        later=keeps_adapters(experiment),
    )


def keeps_adapters(experiment: Experiment) -> bool:
    """Whether a trial keeps its adapter after each task; one as large as the base is kept once."""
    return ADAPTERS[experiment.method.adapter.kind].small
