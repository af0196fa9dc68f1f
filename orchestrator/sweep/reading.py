"""A reading of the test data: for whom it is made, and what it says. Nothing is chosen by it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.data.prepared import PreparedTask
from orchestrator.records.event_values import SideScores
from orchestrator.records.events import SweepEnded, TestRead
from orchestrator.records.stage_report import DONE, StageReport
from orchestrator.records.trial_record import AS_IT_WAS, BASE_TRIAL
from orchestrator.spec.extension import ExtensionSpec
from orchestrator.sweep.baselines import Controls, Inherited, bounds


@dataclass(frozen=True)
class Asked:
    """For whom test data are read."""

    pick: str
    """The trial that is shown: the champion, or what another preference picks."""
    runner_up: str | None
    """What comes next by the same rule."""
    preference: str | None = None
    """By which these were picked once there was a verdict; None: by the verdict."""

    @property
    def purpose(self) -> str:
        """Why the test data are read, in words."""
        if self.preference is None:
            return "the champion, its runner-up and the untouched base, once the verdict was made"
        return f"what the preference {self.preference} picks, the next one and the untouched base"

    @classmethod
    def by_verdict(cls, verdict: SweepEnded) -> Asked | None:
        """What a verdict asks for; None where it has no champion."""
        if verdict.champion is None:
            return None
        return cls(verdict.champion, verdict.runner_up)


def reading(
    asked: Asked,
    sides: Mapping[str, SideScores],
    unread: Mapping[str, str],
    tasks: Sequence[PreparedTask],
    *,
    number: int,
    extends: ExtensionSpec | None = None,
) -> TestRead:
    """What a reading of the test data says; nothing is chosen by it.

    Args:
        asked: For whom it was made.
        sides: What was scored, by trial; the base among them.
        unread: Why a trial could not be scored.
        tasks: The task sequence.
        number: The reading's, from 1.
        extends: The trial that the sweep goes on from, whose side is `AS_IT_WAS`; None where it
            goes on from none.

    Returns:
        The reading, to be written.
    """
    champion, runner_up = asked.pick, asked.runner_up
    made = TestRead(
        purpose=asked.purpose,
        champion=champion,
        runner_up=runner_up,
        preference=asked.preference,
        examples={task.name: len(task.test) for task in tasks},
        sides=dict(sides),
        unread=dict(unread),
    )
    needed = {BASE_TRIAL, champion} | ({AS_IT_WAS} if extends is not None else set[str]())
    if not needed <= set(sides):
        return made  # one that shows no score of the champion has not used the test data up
    was = None
    if extends is not None:
        was = Inherited(extends.as_it_was, _as_report(_before(sides[AS_IT_WAS], tasks, extends)))
    controls = Controls(tasks, _as_report(sides[BASE_TRIAL]), "test", inherited=was)
    reference = statistics.fmean(controls.reference_row)
    trials = [name for name in (champion, runner_up) if name is not None and name in sides]
    examples = {name: sides[name].per_example for name in trials}
    means = {name: statistics.fmean(sides[name].row) for name in trials}
    return replace(
        made,
        reading=number,
        reference=controls.reference_name,
        controls={"majority": controls.majority_row, "head_only": controls.head_only_row},
        accuracy=means,
        gain={name: mean - reference for name, mean in means.items()},
        gain_intervals={
            name: bounds(controls.interval(mine, controls.reference_examples))
            for name, mine in examples.items()
        },
        intervals={name: controls.intervals(mine) for name, mine in examples.items()},
        runner_up_interval=bounds(
            controls.interval(examples[champion], examples[runner_up])
            if runner_up in examples
            else None
        ),
    )


def _as_report(base: SideScores) -> StageReport:
    """The base's scores on the test data as the report that controls are read from."""
    return StageReport(
        "", -1, 0, 0, DONE, math.nan,
        row=base.row, metrics=base.metrics, per_example=base.per_example,
        head_only=base.head_only, head_only_per_example=base.head_only_per_example,
    )  # fmt: skip


def _before(side: SideScores, tasks: Sequence[PreparedTask], extends: ExtensionSpec) -> SideScores:
    """The scores of the trial that a sweep goes on from, without heads that it had not trained."""
    unknown = {t.name for i, t in enumerate(tasks) if t.has_head and i >= extends.learnt}
    row = zip(tasks, side.row, strict=True)
    return replace(
        side,
        row=tuple(math.nan if task.name in unknown else score for task, score in row),
        per_example={t: each for t, each in side.per_example.items() if t not in unknown},
    )
