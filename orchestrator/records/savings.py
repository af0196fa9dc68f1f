"""What the trials of a sweep did not have to train, because another had trained it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.records.stage_report import DONE
from orchestrator.records.trial_record import BASE_TRIAL, TrialRecord
from orchestrator.system.formatting import count, show_duration


@dataclass(frozen=True)
class Savings:
    """Training that was taken over, beside all of it; both count in each trial's own costs."""

    steps: int = 0
    """Optimiser steps that were taken over."""
    all_steps: int = 0
    """Those of all tasks that trials have learnt or taken over."""
    tokens: int = 0
    """Useful training tokens, as `steps`; `seconds` as the trials that trained took them, scores
    included."""
    seconds: float = 0.0
    trials: int = 0
    """How many trials have taken something over."""

    @property
    def words(self) -> str:
        """All of it in a sentence; empty where nothing was taken over."""
        if not self.steps:
            return ""
        share = self.steps / self.all_steps
        return (
            f"{count(self.trials, 'trial')} took over what others had learnt alike: {self.steps:,} "
            f"of {self.all_steps:,} training steps ({share:.0%}), {show_duration(self.seconds)} of "
            "training, were not repeated; the costs of trials are those of training all of it"
        )


def savings(trials: Iterable[TrialRecord]) -> Savings:
    """What some trials have taken over.

    Args:
        trials: Of a sweep.

    Returns:
        The sums over their finished tasks.
    """
    steps = all_steps = tokens = takers = 0
    seconds = 0.0
    for trial in trials:
        ends = [r for r in trial.reports if r.fraction == DONE and trial.name != BASE_TRIAL]
        before_tokens, before_seconds, took = 0, 0.0, False
        for end in sorted(ends, key=lambda report: report.task_index):
            all_steps += end.step
            if end.taken_from is not None:
                took = True
                steps += end.step
                tokens += end.tokens - before_tokens
                seconds += end.seconds - before_seconds
            before_tokens, before_seconds = end.tokens, end.seconds
        takers += took
    return Savings(steps, all_steps, tokens, seconds, takers)
