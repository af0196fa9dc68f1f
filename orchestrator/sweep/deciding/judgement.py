"""How a sweep concludes: its front and champion, and whose test scores are read for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.kept_work import KeptWork
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.measuring import Measuring
from orchestrator.sweep.deciding.proposals import Proposals
from orchestrator.sweep.deciding.reading_sides import ReadingSides
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.sweep.extending.comparison import extension_measured
from orchestrator.sweep.reading import Asked
from orchestrator.sweep.scores.readings import Side
from orchestrator.sweep.verdict import Judged, judge


class Judgement:
    """Makes the verdict, and says on which trials it stands and whose test scores it asks for."""

    def __init__(
        self, ledger: Ledger, proposals: Proposals, kept: KeptWork, budget: Budget
    ) -> None:
        """Begin.

        Args:
            ledger: The sweep's.
            proposals: Knows the finalists.
            kept: The trials' adapters.
            budget: What the sweep may spend.
        """
        self._ledger, self._proposals, self._kept = ledger, proposals, kept
        self._budget = budget
        self._measuring = Measuring(ledger)
        self._sides = ReadingSides(ledger, kept)

    def conclude(self) -> None:
        """Name the front and the champion, unless that is done.

        Trials are judged on all examples. Where the search has scored fewer, those of which the
        rest was never scored count as looked at and are not compared with the others.
        """
        ledger = self._ledger
        if ledger.state.verdict is not None:
            return
        eligible = ledger.eligible()
        whole = [trial for trial in eligible if self._measuring.is_on_all(trial)]
        tried = {t.name: self._judged(t) for t in whole}
        finalists = {
            t.name: self._repeats(t) for t in self._proposals.finalists() if t.name in tried
        }
        stopped = sum(trial.state == "STOPPED" for trial in ledger.searched())
        others = stopped + len(eligible) - len(whole)
        verdict = judge(tried, finalists, ledger.controls(), ledger.experiment, others=others)
        if self._budget.ended:
            words = self._budget.words(self._proposals.left_out)
            reason = f"{verdict.reason.rstrip('.')}. {words}"
            verdict = replace(verdict, reason=reason, budget=dict(self._budget.allowed))
        extension = extension_measured(ledger)
        if extension is not None:
            ledger.record(extension)
        ledger.record(verdict)
        self._kept.remove_large({*verdict.front, *filter(None, [verdict.champion])})

    def contenders(self) -> list[Trial]:
        """The trials whose whole matrix the verdict stands on, in the order of their proposal.

        Returns:
            By what the search has scored: the front, who would be champion and runner-up, and the
            finalists. Empty once there is a verdict.
        """
        ledger = self._ledger
        if ledger.state.verdict is not None or ledger.base_report() is None:
            return []
        eligible, counts = ledger.eligible(), ledger.screened()
        tried = {
            t.name: Judged(t.name, t.searched_measures or {}, self._measuring.examples(t, counts))
            for t in eligible
        }
        first = judge(tried, {}, ledger.controls(counts), ledger.experiment)
        chosen = {*first.front, first.champion, first.runner_up}
        chosen |= {trial.name for trial in self._proposals.finalists()}
        return [trial for trial in eligible if trial.name in chosen]

    def to_be_read(self) -> dict[str, Side]:
        """Say whose test scores the verdict asks for, see `ReadingSides.to_be_read`."""
        asked = self._asked()
        if asked is None or not self._ledger.state.reading_due:
            return {}
        return self._sides.to_be_read(asked)

    def test_read(self, sides: Mapping[str, dict[str, Any]]) -> None:
        """Journal what was found of `to_be_read`, see `ReadingSides.record`."""
        asked = self._asked()
        assert asked is not None, "test data are read for a verdict"
        self._sides.record(asked, sides)

    def _asked(self) -> Asked | None:
        verdict = self._ledger.state.verdict
        return None if verdict is None else Asked.by_verdict(verdict)

    def _judged(self, trial: Trial) -> Judged:
        examples = self._measuring.examples(trial, self._ledger.every_example())
        order = tuple(trial.overrides.get("tasks") or self._ledger.experiment.tasks)
        return Judged(
            trial.name, trial.measures or {}, examples, order, self._ledger.seed_of(trial)
        )

    def _repeats(self, finalist: Trial) -> list[Judged]:
        """A finalist's repetitions with seeds that had no part in the choice."""
        used = self._ledger.searched_seeds()
        return [
            self._judged(trial)
            for trial in self._ledger.trials.values()
            if trial.of == finalist.name
            and trial.state == "COMPLETE"
            and self._ledger.seed_of(trial) not in used
        ]
