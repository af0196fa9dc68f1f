"""A search with equal compute for every value of one choice, each with a searcher of its own.

Where methods are searched together, a searcher soon proposes the one that looked best early, and
one that needs its settings found is never given them. Here each value of `search.per` has its own
searcher over its own part of the space, and the next trial belongs to the one that has cost least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.measures.objectives import Direction
from orchestrator.spec.space.domains import Alternatives, Choice, Domain, simple_domains, value_key
from orchestrator.spec.space.search_space import SearchSpec
from orchestrator.sweep.proposing.search import PastTrial, Proposer

SEED_STEP = 104_729
"""Between the seeds of two groups."""
STARTUP_TRIALS = 3
"""Random trials of each group before its searcher models anything."""


class GroupedProposer:
    """Proposes trials of several groups; has what `Proposer` has."""

    def __init__(
        self,
        search: SearchSpec,
        objectives: Mapping[str, Direction],
        past: Sequence[PastTrial] = (),
        refuses: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
        prior: Sequence[PastTrial] = (),
    ) -> None:
        """Set up a `Proposer` for each group.

        Args:
            search: The whole search, with `per`.
            objectives: See `Proposer`, as for all that follows.
            past: Of all groups.
            refuses: Asked with the group's value among the overrides.
            prior: Of all groups.
        """
        domain = search.space[search.per or ""]
        assert isinstance(domain, Choice), "the file was checked"
        self._per, self._count = search.per or "", search.count
        self._searches: dict[str, Proposer] = {}
        self._values = {value_key(value): value for value in domain.choice}
        self._cost = dict.fromkeys(self._values, 0.0)
        self._over, self._open = dict.fromkeys(self._values, 0), dict.fromkeys(self._values, 0)
        self._group_of: dict[str, str] = {}
        self._added: dict[str, str] = {}
        """The groups of trials that people have asked for: no group pays for them."""
        self._exhausted: set[str] = set()
        for place, (key, value) in enumerate(self._values.items()):
            own, known = (
                [trial for trial in trials if value_key(trial.overrides.get(self._per)) == key]
                for trials in (past, prior)
            )
            self._searches[key] = Proposer(
                part_of(search, value, place), objectives, own,
                _with(refuses, self._per, value), known,
            )  # fmt: skip
            for trial in own:
                if trial.added:
                    self._added[trial.name] = key
                    continue
                self._proposed(trial.name, key)
                if trial.state != "RUNNING":
                    self._ended(trial.name, trial.cost)

    @property
    def total(self) -> int:
        """How many trials there will be in all."""
        if len(self._exhausted) == len(self._values):
            return len(self._group_of)
        return self._count

    def propose(self, name: str) -> dict[str, Any] | None:
        """The overrides of the next trial: one of the group that has cost least.

        Args:
            name: The trial's name, by which it is told later.

        Returns:
            Dotted path to value; None when every trial has been proposed.
        """
        while len(self._group_of) < self.total:
            key = min(self._values, key=self._spent)
            overrides = None if key in self._exhausted else self._searches[key].propose(name)
            if overrides is not None:
                self._proposed(name, key)
                return overrides
            self._exhausted.add(key)
        return None

    def tell(self, name: str, measures: Mapping[str, float] | None, cost: float = 0.0) -> None:
        """Report how a trial ended.

        Args:
            name: The trial.
            measures: Its measures; None when it failed.
            cost: What it has cost, in device seconds.
        """
        if name in self._added:
            self._searches[self._added[name]].tell(name, measures)
            return
        self._searches[self._group_of[name]].tell(name, measures)
        self._ended(name, cost)

    def observe(self, name: str, overrides: Mapping[str, Any]) -> None:
        """Know of a trial that a person has asked for, see `Proposer.observe`."""
        key = value_key(overrides.get(self._per))
        self._searches[key].observe(name, overrides)
        self._added[name] = key

    def _proposed(self, name: str, key: str) -> None:
        self._group_of[name] = key
        self._open[key] += 1

    def _ended(self, name: str, cost: float) -> None:
        key = self._group_of[name]
        self._open[key] -= 1
        self._over[key] += 1
        self._cost[key] += cost

    def _spent(self, key: str) -> tuple[bool, float, int]:
        """What a group has cost, its running trials at what its trials cost on average."""
        over, whole = self._over[key], sum(self._over.values())
        each = self._cost[key] / over if over else sum(self._cost.values()) / max(1, whole)
        tried = over + self._open[key]
        return key in self._exhausted, self._cost[key] + each * self._open[key], tried


def part_of(search: SearchSpec, value: Any, place: int) -> SearchSpec:
    """The search of one value of `per`: its own part of the space, and its own first trials.

    Args:
        search: The whole.
        value: The value.
        place: Its place among the choices, from 0.

    Returns:
        A search without `per`, whose space has that one value.
    """
    per, space = search.per or "", dict[str, list[Any]]()
    for path, domain in simple_domains(search.space):
        if path == per:
            space[path] = [Choice(choice=(value,))]
            continue
        wanted = domain.when.get(per)
        allowed = wanted if isinstance(wanted, list | tuple) else [wanted]
        if per in domain.when and value_key(value) not in {value_key(one) for one in allowed}:
            continue
        rest = {parent: its for parent, its in domain.when.items() if parent != per}
        space.setdefault(path, []).append(domain.model_copy(update={"when": rest}))
    parts: dict[str, Domain] = {
        path: own[0] if len(own) == 1 else Alternatives(alternatives=tuple(own))
        for path, own in space.items()
    }
    first = [e for e in search.first if per not in e or value_key(e[per]) == value_key(value)]
    return search.model_copy(
        update={
            "per": None, "space": parts, "first": tuple(first), "trials": search.count,
            "startup_trials": search.startup_trials or STARTUP_TRIALS,
            "seed": (search.seed + SEED_STEP * place) % 2**32,
        }
    )  # fmt: skip


def _with(
    refuses: Callable[[Mapping[str, Any]], str | None], per: str, value: Any
) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda overrides: refuses({per: value, **overrides})
