"""Who says which recorded trial comes next: at random, this project's searcher, or NSGA-II.

A searcher proposes points of the portfolio's space; the trial that runs is the nearest one that was
recorded and has not run yet, of the same method. All choose among the same recordings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from benchmarks.decision_curves import Curve
from orchestrator.measures.objectives import Direction
from orchestrator.selection.portfolio import PRESET, portfolio_search
from orchestrator.spec.space.domains import LogUniform, Uniform, simple_domains
from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.sweep.proposing.grouped_search import GroupedProposer
from orchestrator.sweep.proposing.optuna_space import from_optuna, optuna_parameters, suggest_value


class Searcher(Protocol):
    """Chooses among recorded trials."""

    def next(self) -> Curve | None:
        """The next one; None when all have run."""
        ...

    def tell(self, curve: Curve, values: Mapping[str, float] | None, cost: float) -> None:
        """What a trial measured, or would have; None: nothing is told of it."""
        ...


class AtRandom:
    """A random order."""

    def __init__(self, curves: Sequence[Curve], seed: int) -> None:
        """Shuffle."""
        self._left = list(curves)
        random.Random(seed).shuffle(self._left)

    def next(self) -> Curve | None:
        """See `Searcher`."""
        return self._left.pop() if self._left else None

    def tell(self, curve: Curve, values: Mapping[str, float] | None, cost: float) -> None:
        """Nothing is learnt."""


class _Nearest:
    """The recorded trials that have not run, and which is nearest to a point."""

    def __init__(self, curves: Sequence[Curve], search: SearchSpec, seed: int) -> None:
        self.left = list(curves)
        random.Random(seed).shuffle(self.left)  # of two that are as near, either comes first
        self._domains = list(simple_domains(search.space))

    def take(self, point: Mapping[str, Any]) -> Curve | None:
        own = [curve for curve in self.left if curve.preset == point.get(PRESET)]
        found = min(own, key=lambda curve: self._distance(point, curve.overrides), default=None)
        if found is not None:
            self.left.remove(found)
        return found

    def _distance(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
        total = 0.0
        for path in {*one} & {*other}:
            a, b = one[path], other[path]
            spans = [
                domain.log_uniform if isinstance(domain, LogUniform) else domain.uniform
                for where, domain in self._domains
                if where == path and isinstance(domain, LogUniform | Uniform)
            ]
            if spans:
                low, high = (math.log(bound) for bound in spans[0])
                total += ((math.log(a) - math.log(b)) / (high - low)) ** 2
            else:
                total += float(a != b)
        return total


def portfolio_of(curves: Sequence[Curve], seed: int) -> SearchSpec:
    """The search whose space the recordings lie in."""
    presets = list(dict.fromkeys(curve.preset for curve in curves))
    return SearchSpec(
        **portfolio_search(presets), searcher="tpe", trials=10 * len(curves), seed=seed
    )


class Ours:
    """A searcher for each method, all with the same compute."""

    def __init__(
        self, curves: Sequence[Curve], objectives: Mapping[str, Direction], seed: int
    ) -> None:
        """Begin with nothing known."""
        search = portfolio_of(curves, seed)
        self._nearest = _Nearest(curves, search, seed)
        self._proposer = GroupedProposer(search, objectives)
        self._names: dict[str, str] = {}
        self._asked = 0

    def next(self) -> Curve | None:
        """See `Searcher`."""
        while self._nearest.left:
            name = f"p{self._asked}"
            point = self._proposer.propose(name)
            self._asked += 1
            if point is None:
                return self._nearest.left.pop()
            found = self._nearest.take(point)
            if found is not None:
                self._names[found.trial] = name
                return found
            # All recorded trials of that method have run: it has cost more than any.
            self._proposer.tell(name, None, cost=1e12)
        return None

    def tell(self, curve: Curve, values: Mapping[str, float] | None, cost: float) -> None:
        """See `Searcher`."""
        if curve.trial in self._names:
            self._proposer.tell(self._names[curve.trial], values, cost)


class Nsga:
    """Optuna's NSGA-II over the whole space."""

    def __init__(
        self, curves: Sequence[Curve], objectives: Mapping[str, Direction], seed: int
    ) -> None:
        """Begin with nothing known."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = portfolio_of(curves, seed)
        self._nearest, self._objectives = _Nearest(curves, search, seed), dict(objectives)
        self._parameters = optuna_parameters(search.space)
        self._study = optuna.create_study(
            directions=["maximize" if d == "max" else "minimize" for d in objectives.values()],
            sampler=optuna.samplers.NSGAIISampler(seed=seed, population_size=10),
        )
        self._trials: dict[str, Any] = {}

    def next(self) -> Curve | None:
        """See `Searcher`."""
        import optuna

        from orchestrator.spec.space.assignments import active

        while self._nearest.left:
            trial, point = self._study.ask(), dict[str, Any]()
            for key, path, domain in self._parameters:
                if path not in point and active(domain, point):
                    point[path] = from_optuna(domain, suggest_value(trial, key, domain))
            found = self._nearest.take(point)
            if found is not None:
                self._trials[found.trial] = trial
                return found
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None

    def tell(self, curve: Curve, values: Mapping[str, float] | None, cost: float) -> None:
        """See `Searcher`."""
        import optuna

        del cost
        trial = self._trials[curve.trial]
        if values is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, [values[name] for name in self._objectives])
