"""What to try next: a searcher over Optuna's ask and tell, rebuilt from the journal.

Tune's own Optuna searcher leaves a trial running for ever when one of several objectives is
missing, and cannot be rebuilt from our journal; hence this one.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from orchestrator.measures.objectives import Direction
from orchestrator.spec.sections import LARGEST_SEED
from orchestrator.spec.space.assignments import active, draw
from orchestrator.spec.space.domains import SimpleDomain, contains, value_key
from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.sweep.proposing.optuna_space import (
    distribution_of,
    from_optuna,
    optuna_parameters,
    suggest_value,
    to_optuna,
)

ASKS = 32
"""How often the searcher is asked for one trial before it is drawn at random."""
RANDOM_DRAWS = 10_000
"""How often it is drawn then; most trials of a space that was checked are possible."""


@dataclass(frozen=True)
class PastTrial:
    """A trial that was proposed before: finished, failed, or still to be run."""

    name: str
    overrides: Mapping[str, Any]
    state: str
    """COMPLETE, FAILED, or RUNNING for one that has not ended."""
    values: Mapping[str, float] | None = None
    cost: float = 0.0
    """Device seconds, as far as it has come."""
    added: bool = False
    """Whether a person has asked for it: it is learnt of, and none of those that there are to
    be."""


class Proposer:
    """Proposes overrides and learns from what they scored. Knows nothing of Ray."""

    def __init__(
        self,
        search: SearchSpec,
        objectives: Mapping[str, Direction],
        past: Sequence[PastTrial] = (),
        refuses: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
        prior: Sequence[PastTrial] = (),
    ) -> None:
        """Set up the search, with what earlier sessions of the sweep found.

        Args:
            search: Space, searcher and seeds.
            objectives: Measures and directions, in the order told to the searcher.
            past: Every trial proposed before, oldest first.
            refuses: Why a trial with some overrides cannot be; None where it can. What it refuses
                is never proposed.
            prior: Trials of other sweeps, in the terms of this space; none of them counts here.
        """
        self._search = search
        self._objectives = dict(objectives)
        self._parameters = optuna_parameters(search.space)
        self._distributions = {key: distribution_of(domain) for key, _, domain in self._parameters}
        self._numbers: dict[str, int] = {}
        self._refuses = refuses
        self._grid = [point for point in search.points if refuses(point) is None]
        if search.count < len(search.points):
            self._grid = spread(self._grid)
        self._tried: set[str] = set()
        self._proposed = 0
        self._known = 0
        """How many trials the study has: asking it copies them all."""
        # Logs of every ask would bury the live display.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            directions=["maximize" if d == "max" else "minimize" for d in objectives.values()],
        )
        for trial in prior:
            self._learn(trial)
        for trial in past:
            self._add(trial)

    @property
    def total(self) -> int:
        """How many trials there will be in all."""
        if self._search.searcher != "grid":
            return self._search.count
        points = {value_key(point) for point in self._grid}
        # A trial that an earlier version proposed, and that is none of the points, counts as well.
        return min(self._search.count, len(points | self._tried))

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """A sampler for the next proposal alone."""
        # Its random numbers depend on the seed and the proposal's number, so that a continued sweep
        # proposes what an uninterrupted one would have proposed.
        seed = (self._search.seed + 7919 * self._proposed) % (LARGEST_SEED + 1)
        if self._search.searcher != "tpe":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = self._search.startup_trials or min(10, max(3, self._search.count // 3))
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=startup,
            constant_liar=True,
        )

    def _add(self, trial: PastTrial) -> None:
        """Learn of a trial of this sweep, and count it if the search has proposed it."""
        self._learn(trial)
        number = self._known - 1
        if trial.added:
            self._numbers[trial.name] = number
        else:
            self._note(trial.name, number, trial.overrides)

    def observe(self, name: str, overrides: Mapping[str, Any]) -> None:
        """Know of a trial that a person has asked for, and that runs; `tell` says how it ends.

        Args:
            name: The trial's.
            overrides: In the terms of the space.
        """
        self._add(PastTrial(name, overrides, "RUNNING", added=True))

    def _learn(self, trial: PastTrial) -> None:
        held = self._held(trial.overrides)
        distributions = {key: self._distributions[key] for key, _, _ in held}
        params = {key: to_optuna(domain, trial.overrides[path]) for key, path, domain in held}
        states = {"COMPLETE": TrialState.COMPLETE, "RUNNING": TrialState.RUNNING}
        values = self._values(trial.values) if trial.state == "COMPLETE" else None
        state = states.get(trial.state, TrialState.FAIL)
        if state == TrialState.COMPLETE and values is None:
            state = TrialState.FAIL
        _add_trial(
            self._study,
            create_trial(state=state, values=values, params=params, distributions=distributions),
        )
        self._known += 1

    def _note(self, name: str, number: int, overrides: Mapping[str, Any]) -> None:
        self._numbers[name] = number
        self._proposed += 1
        self._tried.add(value_key(overrides))

    def _held(self, overrides: Mapping[str, Any]) -> list[tuple[str, str, SimpleDomain]]:
        """The parameters that some overrides set, as far as the space has room for them."""
        held: dict[str, tuple[str, str, SimpleDomain]] = {}
        for key, path, domain in self._parameters:
            wanted = path in overrides and path not in held and active(domain, overrides)
            # Older versions took first trials from outside the space, of which it learns nothing.
            if wanted and contains(domain, overrides[path]):
                held[path] = (key, path, domain)
        return list(held.values())

    def _values(self, measures: Mapping[str, float] | None) -> list[float] | None:
        """The objectives in order; None when one is missing or not a number."""
        if measures is None:
            return None
        values = [measures.get(name) for name in self._objectives]
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        return [float(value) for value in values if value is not None]

    def propose(self, name: str) -> dict[str, Any] | None:
        """The overrides of the next trial.

        Args:
            name: The trial's name, by which it is told later.

        Returns:
            Dotted path to value; None when every trial has been proposed.
        """
        if self._proposed >= self.total:
            return None
        if self._search.searcher == "grid":
            point = next((p for p in self._grid if value_key(p) not in self._tried), None)
            if point is not None:
                self._add(PastTrial(name, point, "RUNNING"))
            return None if point is None else dict(point)
        fixed = self._search.first[self._proposed] if self._has_first() else {}
        self._study.sampler = self._sampler()
        for _ in range(ASKS):
            number, chosen = self._ask(fixed)
            overrides = self._laid_over(chosen, fixed)
            possible = self._refuses(overrides) is None
            if possible and all(overrides[path] == value for path, value in chosen.items()):
                self._note(name, number, overrides)
                return overrides
            # A session that goes on after an interruption never hears of it, and need not.
            self._study.tell(number, state=TrialState.FAIL)
            if possible:
                break
        else:
            overrides = self._drawn(fixed)
        # Not what the searcher said, so it is told as a later session tells it.
        self._add(PastTrial(name, overrides, "RUNNING"))
        return overrides

    def _ask(self, fixed: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """What the searcher proposes given an entry of `first`, and by which number it knows it."""
        searched = {key: to_optuna(domain, fixed[path]) for key, path, domain in self._held(fixed)}
        if searched:
            self._study.enqueue_trial(searched)
        trial = self._study.ask()
        self._known = trial.number + 1
        chosen: dict[str, Any] = {}
        for key, path, domain in self._parameters:
            if path not in chosen and active(domain, chosen):
                chosen[path] = from_optuna(domain, suggest_value(trial, key, domain))
        return trial.number, chosen

    def _laid_over(self, chosen: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
        """What was drawn, with an entry's own values wherever these have a place."""
        own = {p: v for p, v in fixed.items() if p in chosen or p not in self._search.space}
        return {**chosen, **own}

    def _drawn(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """A possible trial at random, where the searcher insists on impossible ones.

        Args:
            fixed: An entry of `first`.

        Returns:
            Its overrides.

        Raises:
            ValueError: If none is found, which a space that was checked does not come to.
        """
        dice, reason = random.Random(f"{self._search.seed}/{self._proposed}"), None
        for _ in range(RANDOM_DRAWS):
            overrides = self._laid_over(draw(self._search.space, dice, fixed), fixed)
            reason = self._refuses(overrides)
            if reason is None:
                return overrides
        raise ValueError(
            f"None of {RANDOM_DRAWS} trials drawn from `search.space` is possible; the last one: "
            f"{reason}. Nothing was recorded of them. Fix the space, and start with --new."
        )

    def _has_first(self) -> bool:
        return self._proposed < len(self._search.first)

    def tell(self, name: str, measures: Mapping[str, float] | None, cost: float = 0.0) -> None:
        """Report how a trial ended.

        Args:
            name: The trial.
            measures: Its measures; None when it failed. A trial whose objectives are not all
                finite numbers counts as failed.
            cost: What it has cost, which matters where groups share (see `GroupedProposer`).
        """
        del cost
        values = self._values(measures)
        if values is None:
            self._study.tell(self._numbers[name], state=TrialState.FAIL)
        else:
            self._study.tell(self._numbers[name], values)


def _add_trial(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Let a study have a trial that nobody else holds, without a deep copy of it.

    To copy the distributions of ten thousand trials takes longer than to read what they scored.
    """
    vars(trial)["__deepcopy__"] = lambda _: trial
    try:
        study.add_trial(trial)
    finally:
        del vars(trial)["__deepcopy__"]


def spread(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points of a grid in an order of which every beginning reaches as much as it can.

    The next point is always one whose first field has the value that was taken least so far, among
    those the same of its second field, and so on.

    Args:
        points: The points in the order of the file.

    Returns:
        The same points in another order.
    """
    taken: Counter[tuple[str, str]] = Counter()
    parts = [[(path, value_key(value)) for path, value in point.items()] for point in points]

    def rank(index: int) -> tuple[list[int], int]:
        return [taken[part] for part in parts[index]], index

    # What was taken only grows, so a rank that is out of date is too low, and comes up too early.
    heap = [rank(index) for index in range(len(points))]
    heapq.heapify(heap)
    order: list[dict[str, Any]] = []
    while heap:
        known, index = heapq.heappop(heap)
        now = rank(index)
        if now[0] != known:
            heapq.heappush(heap, now)
            continue
        order.append(dict(points[index]))
        taken.update(parts[index])
    return order
