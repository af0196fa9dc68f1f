"""Which trials go on: a race over rungs, on the examples that all trials are scored on.

A rung is a moment that every trial comes past: after a quarter and a half of each task, and after
each task but the last. A trial is compared with those that have been there before it, whenever it
comes (asynchronous, as ASHA; Li et al. 2020, arXiv 1810.05934), by all objectives that can be
measured by then. Whoever is not among the best share is stopped once it is worse than these beyond
doubt, in a paired test on the same examples (as irace does; López-Ibáñez et al. 2016, Operations
Research Perspectives 3), and not merely ranked behind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.measures.objectives import NATURAL_DIRECTIONS, Direction
from orchestrator.measures.paired import Parts, paired_difference
from orchestrator.measures.pareto import best_first

Rung = tuple[int, float]
"""The task's index from 0, and how much of it is learnt."""


Values = Mapping[str, float]


class Standings(Protocol):
    """Says what trials have scored at the rungs where they were."""

    def values(self, trial: str, rung: Rung) -> Values | None:
        """By measure; NaN, or missing, what cannot be measured yet; None: nothing can be told."""
        ...

    def parts(self, trial: str, rung: Rung) -> Mapping[str, Parts]:
        """By measure, what each example adds; without measures that no example stands behind."""
        ...


@dataclass(frozen=True)
class Stop:
    """Why a trial does not go on."""

    rung: Rung
    measure: str
    """In which the trial is worse."""
    rival: str | None
    """Than which; None: than the champion's limit."""
    difference: float
    """The rival's measure minus the trial's, or the trial's minus the limit."""
    interval: tuple[float, float]
    """Of the difference; it allows for the number of comparisons."""


@dataclass(frozen=True)
class RaceRules:
    """How trials race."""

    objectives: Mapping[str, Direction]
    limits: Mapping[str, float]
    """The champion's, by measure: at most, or at least where more is better."""
    deciding: str
    """The measure that the champion is chosen by: who may still have the best of it goes on."""
    rungs: int
    """How many there are."""
    keep: float = 1 / 3
    """Share of the trials at a rung that goes on in any case, in (0, 1)."""
    confidence: float = 0.95
    """With which a trial that is no worse than those that go on is not stopped, over all rungs."""

    def direction(self, measure: str) -> Direction:
        """What is better in an objective, or in one of our measures that is none."""
        return self.objectives.get(measure) or NATURAL_DIRECTIONS[measure]

    @property
    def least(self) -> int:
        """How many trials a rung must have seen before one is stopped there."""
        return max(3, math.ceil(1.0 / self.keep))


class Race:
    """Says whether trials go on; knows nothing of where they run."""

    def __init__(self, rules: RaceRules, standings: Standings) -> None:
        """Begin with empty rungs.

        Args:
            rules: How trials race.
            standings: Says what trials have scored.
        """
        self._rules, self._standings = rules, standings
        self._at: dict[Rung, dict[str, None]] = {}

    def passed(self, trial: str, rung: Rung) -> None:
        """Note that a trial was at a rung, without asking whether it goes on."""
        self._at.setdefault(rung, {})[trial] = None

    def look(self, trial: str, rung: Rung) -> Stop | None:
        """Note that a trial is at a rung, and decide.

        Args:
            trial: The trial's name.
            rung: Where it is.

        Returns:
            Why it is to be stopped; None: it goes on.
        """
        self.passed(trial, rung)
        mine = self._standings.values(trial, rung)
        if mine is None:
            return None
        return self._beyond_a_limit(trial, mine, rung) or self._behind(trial, mine, rung)

    def _beyond_a_limit(self, trial: str, mine: Values, rung: Rung) -> Stop | None:
        known = {n: limit for n, limit in self._rules.limits.items() if _is_known(mine, n)}
        tail = self._tail(len(self._rules.limits))
        for measure, limit in known.items():
            parts = self._standings.parts(trial, rung).get(measure)
            if not parts:
                continue
            nothing = {task: [0.0] * len(each) for task, each in parts.items()}
            beyond = replace(paired_difference(parts, nothing), value=mine[measure] - limit)
            low, high = beyond.bounds(tail)
            if low > 0.0 if self._rules.direction(measure) == "min" else high < 0.0:
                return Stop(rung, measure, None, beyond.value, (low, high))
        return None

    def _behind(self, trial: str, mine: Values, rung: Rung) -> Stop | None:
        rules = self._rules
        known: dict[str, Direction] = {
            name: better for name, better in rules.objectives.items() if _is_known(mine, name)
        }
        field = {name: self._standings.values(name, rung) for name in self._at[rung]}
        peers = {n: v for n, v in field.items() if v and all(_is_known(v, m) for m in known)}
        if not known or len(peers) < rules.least:
            return None
        names = list(peers)
        order = best_first([peers[name] for name in names], known)
        best = [names[place] for place in order[: math.ceil(rules.keep * len(names))]]
        if trial in best:
            return None
        # The deciding measure may be no objective.
        compared: dict[str, Direction] = {
            **known, rules.deciding: rules.direction(rules.deciding),
        }  # fmt: skip
        beaten: list[Stop] = []
        tail = self._tail(len(best) * len(compared))
        for rival in best:
            better, covers = self._compare(trial, rival, compared, rung, tail)
            if not better:
                return None  # it cannot be told apart from one that goes on
            # One that alone covers a region of the front is spared, and who may still be champion.
            if covers and rules.deciding in better:
                beaten.append(better[rules.deciding])
        return max(beaten, key=_certainty, default=None)

    def _compare(
        self, trial: str, rival: str, known: Mapping[str, Direction], rung: Rung, tail: float
    ) -> tuple[dict[str, Stop], bool]:
        """What a rival is better in beyond doubt, and whether it is not worse beyond doubt."""
        its, mine = (self._standings.parts(name, rung) for name in (rival, trial))
        better: dict[str, Stop] = {}
        covers = True
        for measure, direction in known.items():
            if not its.get(measure) or not mine.get(measure):
                continue  # costs are no matter of chance, and tell nobody's worth
            found = paired_difference(its[measure], mine[measure])
            low, high = found.bounds(tail)
            lead, lag = (low, high) if direction == "max" else (-high, -low)
            if lead > 0.0:
                better[measure] = Stop(rung, measure, rival, found.value, (low, high))
            covers &= lag >= 0.0
        return better, covers

    def _tail(self, comparisons: int) -> float:
        """The chance of error that one comparison may have (Bonferroni)."""
        return (1.0 - self._rules.confidence) / max(1, comparisons) / max(1, self._rules.rungs)


def _is_known(values: Values, measure: str) -> bool:
    return math.isfinite(values.get(measure, math.nan))


def _certainty(stop: Stop) -> float:
    low, high = stop.interval
    return abs(stop.difference) / max(1e-12, high - low)


def pessimistic(
    objectives: Mapping[str, Direction],
    at_rung: Mapping[str, float],
    finished: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
    quantile: float = 0.25,
) -> dict[str, float] | None:
    """What a trial that was stopped would have scored, were it none too lucky.

    A searcher that is told nothing of a stopped trial looks there again. Each objective is the one
    at the rung, and what it went on to change in the trials that were whole, at the quantile from
    its bad end.

    Args:
        objectives: With the direction that is better.
        at_rung: What the trial scored at the rung, as far as it can be measured there.
        finished: Of whole trials, what they scored at the same rung and at their end.
        quantile: In [0, 1]; 0 is the worst change that was seen.

    Returns:
        A value for each objective; None where no whole trial says what one becomes.
    """
    import numpy as np

    told: dict[str, float] = {}
    for name, direction in objectives.items():
        share = quantile if direction == "max" else 1.0 - quantile
        ends = [end[name] for _, end in finished if math.isfinite(end.get(name, math.nan))]
        now = at_rung.get(name, math.nan)
        changes = [
            end[name] - then[name]
            for then, end in finished
            if math.isfinite(end.get(name, math.nan) - then.get(name, math.nan))
        ]
        if math.isfinite(now) and changes:
            told[name] = now + float(np.quantile(changes, share))
        elif ends:
            told[name] = float(np.quantile(ends, share))
        else:
            return None
    return told
