"""Which trials a sweep is to have: the base, those of the search, repetitions of its finalists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.measures.champion import Candidate, best_candidate, best_candidates
from orchestrator.measures.intervals import UNKNOWN
from orchestrator.records.events import TrialProposed
from orchestrator.records.trial_record import BASE_TRIAL, COMPARISON
from orchestrator.spec.reach import refusal
from orchestrator.sweep.deciding.budget import Budget
from orchestrator.sweep.deciding.ledger import Ledger
from orchestrator.sweep.deciding.trial import Trial
from orchestrator.sweep.proposing.terms import observed_terms
from orchestrator.sweep.verdict import fresh_orders, fresh_seeds

if TYPE_CHECKING:
    from orchestrator.sweep.proposing.grouped_search import GroupedProposer
    from orchestrator.sweep.proposing.search import PastTrial, Proposer

COMPARED: dict[str, dict[str, Any]] = {
    "joint": {
        "extends": None,
        "method.sequence": "joint",
        "method.retention.kind": "none",
        "method.early_stopping": None,
    },
    "fresh": {"extends.begin": "fresh"},
}
"""Beside which an extension is read: all tasks learnt jointly from nothing, and the further tasks
alone with a fresh adapter."""


class Proposals:
    """Proposes trials in order, and counts those that are still to come."""

    def __init__(self, ledger: Ledger, budget: Budget, prior: Sequence[PastTrial] = ()) -> None:
        """Set up the search with what earlier sessions have found.

        Args:
            ledger: The sweep's.
            budget: What it may spend.
            prior: Trials of other sweeps that the searcher learns from.
        """
        self._ledger, self._budget = ledger, budget
        self._proposer = _proposer(ledger, prior)

    @property
    def total(self) -> int:
        """How many trials the search is to have: those there are, once a budget has ended it."""
        return len(self._ledger.searched()) if self._budget.ended else self._wanted

    @property
    def _wanted(self) -> int:
        return self._ledger.asked_for + (self._proposer.total if self._proposer is not None else 1)

    @property
    def missing(self) -> int:
        """How many trials are yet to be proposed; at most, while the search goes on."""
        base = int(BASE_TRIAL not in self._ledger.trials)
        searched = max(0, self.total - len(self._ledger.searched()))
        return base + searched + self.missing_repetitions + self.missing_comparisons

    @property
    def missing_repetitions(self) -> int:
        """How many of these repeat a finalist."""
        if self._search_over:
            return sum(name not in self._ledger.trials for name, _, _ in self._repetitions())
        return self._ledger.experiment.repeated_trials

    @property
    def missing_comparisons(self) -> int:
        """How many of these are read beside a trial that goes on from another sweep's."""
        wanted = self._comparisons() if self._search_over else self._compared
        return sum(name not in self._ledger.trials for name in wanted)

    @property
    def _compared(self) -> dict[str, dict[str, Any]]:
        """Name and overrides of the comparisons that there are to be."""
        return COMPARED if self._ledger.experiment.compared_trials else {}

    @property
    def may_come(self) -> bool:
        """Whether trials may be proposed once those that run have ended."""
        waits = bool(self._budget.allowed) and self.total > len(self._ledger.searched())
        return waits or bool(self.missing_repetitions or self.missing_comparisons)

    @property
    def _search_over(self) -> bool:
        searched = self._ledger.searched()
        return len(searched) >= self.total and all(trial.over for trial in searched)

    def next(self) -> str | None:
        """Propose the next trial; None while there is none to propose, or for good."""
        trials, search = self._ledger.trials, self._ledger.experiment.search
        if BASE_TRIAL not in trials:
            return self.propose(BASE_TRIAL, {}, "control")
        name = self.free_name()
        if self._proposer is None or search is None:
            if not self._ledger.searched():
                return self.propose(name, {}, "user")
            return self._propose_afterwards()
        if self._waits_for_budget():
            return None
        overrides = None if self._budget.ended else self._proposer.propose(name)
        if overrides is None:
            return self._propose_afterwards()
        return self.propose(name, overrides, search.searcher)

    def free_name(self) -> str:
        """The name of the next trial of the search."""
        number = max(1, len(self._ledger.trials))
        while (name := f"t{number:03d}") in self._ledger.trials:  # a journal may have lost lines
            number += 1
        return name

    def _waits_for_budget(self) -> bool:
        """Whether the next trial has to wait for others to end; the search ends where none run."""
        searched = self._ledger.searched()
        # Repetitions of the finalists, and comparisons, must still fit afterwards.
        wanted = 1 + self._repetitions_ahead + self.missing_comparisons
        if self.total <= len(searched) or self._budget.fits(wanted):
            return False
        if not all(trial.over for trial in searched):
            return True
        self._budget.end()
        return False

    @property
    def _repetitions_ahead(self) -> int:
        """How many repetitions there will be after one more trial, at most."""
        experiment = self._ledger.experiment
        per = experiment.finalists.per
        if per is None:
            return experiment.repeated_trials
        # Only a group that was tried has a finalist; the next trial may be of another one.
        tried = {json.dumps(trial.overrides.get(per)) for trial in self._ledger.searched()}
        ahead = experiment.finalists.fresh_seeds * (len(tried) + 1)
        return min(experiment.repeated_trials, ahead)

    @property
    def left_out(self) -> int | None:
        """How many trials were asked for and are not run; None where a budget alone bounds them."""
        search = self._ledger.experiment.search
        if search is not None and search.open_ended:
            return None
        return max(0, self._wanted - len(self._ledger.searched()))

    def propose(
        self, name: str, overrides: Mapping[str, Any], by: str, of: str | None = None
    ) -> str:
        """Record that a trial is to be run.

        Args:
            name: The trial's.
            overrides: Dotted paths of the experiment and its values.
            by: Who proposes it.
            of: The finalist that it repeats.

        Returns:
            Its name.

        Raises:
            ExperimentError: If it cannot be: that is not recorded.
        """
        self._ledger.experiment.with_overrides(overrides)
        self._ledger.record(TrialProposed(name, dict(overrides), by, of))
        return name

    def observe(self, name: str) -> str:
        """Let the search know of a trial that a person has asked for and that is to run.

        Args:
            name: The trial's, which was proposed.

        Returns:
            Why it cannot learn of it; empty where it does.
        """
        if self._proposer is None:
            return "nothing is searched"
        overrides = self._ledger.trials[name].overrides
        terms, why = observed_terms(self._ledger.experiment, overrides)
        if terms is not None:
            self._proposer.observe(name, terms)
        return why

    def tell(self, trial: Trial, measured: Mapping[str, float] | None) -> None:
        """Let the search learn what a trial scored; None: it has failed or was stopped."""
        if self._proposer is None or trial.name == BASE_TRIAL or not trial.record.is_searched:
            return
        if not trial.record.is_asked_for or _terms(self._ledger, trial) is not None:
            self._proposer.tell(trial.name, measured, _cost(self._ledger, trial))

    def finalists(self) -> list[Trial]:
        """The best searched trial of each group; those that keep the champion's limits first."""
        experiment = self._ledger.experiment
        rule, per = experiment.champion, experiment.finalists.per
        groups: dict[str, list[Candidate]] = {}
        for trial in self._ledger.eligible():
            # A choice may be a list, which is no key.
            group = json.dumps(trial.overrides.get(per)) if per is not None else ""
            groups.setdefault(group, []).append(
                Candidate(trial.name, trial.searched_measures or {}, UNKNOWN)
            )
        best = [
            best_candidate(group, maximize=rule.maximize, subject_to=rule.subject_to)
            for group in groups.values()
        ]
        most = experiment.finalists.most
        if most is not None and most < len(best):
            best = best_candidates(best, most, maximize=rule.maximize, subject_to=rule.subject_to)
        return [self._ledger.trials[candidate.name] for candidate in best]

    def _repetitions(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Name, finalist and overrides of every repetition with a fresh seed."""
        experiment = self._ledger.experiment
        own, count = experiment.training.seed, experiment.finalists.fresh_seeds
        if not count:
            return []
        seeds = fresh_seeds(own, self._ledger.searched_seeds(), count)
        orders = self._other_orders(count)
        fresh = {
            seed: {"training.seed": seed, **order}
            for seed, order in zip(seeds, orders, strict=True)
        }
        return [
            (f"{t.name}-s{seed - own}", t.name, {**t.overrides, **fresh[seed]})
            for t in self.finalists()
            for seed in seeds
        ]

    def _other_orders(self, count: int) -> list[dict[str, Any]]:
        """The tasks in the order of each repetition, where these are to have fresh ones."""
        experiment = self._ledger.experiment
        if not experiment.finalists.fresh_orders or len(experiment.tasks) < 2:
            return [{}] * count
        return [{"tasks": order} for order in fresh_orders(experiment.tasks, count)]

    def _propose_afterwards(self) -> str | None:
        if not self._search_over:
            return None
        for name, finalist, overrides in self._repetitions():
            if name not in self._ledger.trials:
                return self.propose(name, overrides, "fresh seed", of=finalist)
        for name, overrides in self._comparisons().items():
            if name not in self._ledger.trials:
                return self.propose(name, overrides, COMPARISON)
        return None

    def _comparisons(self) -> dict[str, dict[str, Any]]:
        """Name and overrides of the trials beside which an extension is read, once it is whole."""
        # What the trial that it goes on from scored as it was is known from the extension alone.
        done = any(trial.state == "COMPLETE" for trial in self._ledger.searched())
        return self._compared if done else {}


def _proposer(ledger: Ledger, prior: Sequence[PastTrial]) -> Proposer | GroupedProposer | None:
    """The search; None of a sweep of a single trial."""
    from orchestrator.sweep.proposing.grouped_search import GroupedProposer
    from orchestrator.sweep.proposing.search import Proposer

    experiment = ledger.experiment
    if experiment.search is None:
        return None
    kind = GroupedProposer if experiment.search.per is not None else Proposer
    return kind(
        experiment.search,
        experiment.objectives,
        [past for t in ledger.searched() if (past := _past(ledger, t)) is not None],
        refuses=lambda overrides: refusal(experiment, overrides),
        prior=prior,
    )


def _past(ledger: Ledger, trial: Trial) -> PastTrial | None:
    """A trial as the search learns of it: one that was stopped early as it was told then.

    Args:
        ledger: The sweep's.
        trial: One of those that are chosen among.

    Returns:
        The trial; None of one that a person has asked for outside the space.
    """
    from orchestrator.sweep.proposing.search import PastTrial

    record, cost, added = trial.record, _cost(ledger, trial), trial.record.is_asked_for
    overrides = _terms(ledger, trial) if added else trial.overrides
    if overrides is None:
        return None
    told = record.stop.told if record.stop is not None else None
    if told is not None:
        return PastTrial(trial.name, overrides, "COMPLETE", told, cost, added)
    return PastTrial(trial.name, overrides, trial.state, trial.searched_measures, cost, added)


def _terms(ledger: Ledger, trial: Trial) -> Mapping[str, Any] | None:
    """What the search can learn of a trial that a person has asked for, see `observed_terms`."""
    return observed_terms(ledger.experiment, trial.overrides)[0]


def _cost(ledger: Ledger, trial: Trial) -> float:
    """Device seconds that a trial has taken, by its last report."""
    seconds = max((report.seconds for report in trial.reports.values()), default=0.0)
    workers = trial.overrides.get("resources.workers", ledger.experiment.resources.workers)
    return seconds * float(workers)
