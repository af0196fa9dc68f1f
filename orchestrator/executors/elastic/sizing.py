"""How many members a pool holds: what there is, what trials need, and what others leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.executors.elastic.room import Room
from orchestrator.spec.sections import ResourceSpec


def members_for(trials: int, slots: int, *, there: int, most: int) -> int:
    """How many members to hold.

    All places that are there are used, as long as each has a trial: side by side trials end
    sooner. A node that is not there is asked for only where its slots would be filled.

    Args:
        trials: How many could run at a time.
        slots: Of each member.
        there: How many members the nodes hold that are there.
        most: How many may be held.

    Returns:
        The number; at least 1, so that something waits where there is nothing yet.
    """
    wanted = max(min(there, trials), math.ceil(trials / slots))
    return max(1, min(most, wanted))


class PoolSize:
    """Says how many members a sweep's pool is to hold now."""

    def __init__(
        self,
        resources: ResourceSpec,
        room: Callable[[], Room],
        trials: Callable[[], int],
        share: Callable[[int], int] = lambda most: most,
    ) -> None:
        """Begin.

        Args:
            resources: Of the sweep.
            room: Of the cluster, in workers.
            trials: Gives how many trials could run at a time.
            share: Gives how many of so many workers other sweeps leave to this one.
        """
        self._resources, self._room, self._trials = resources, room, trials
        self._share = share

    def wanted(self) -> int:
        """How many members there are to be if no other sweep is short of any, at least 1."""
        room, workers = self._room(), self._resources.workers
        trials, most = max(1, self._trials()), room.most // workers
        if self._resources.members is None:
            slots, there = self._resources.slots, room.there // workers
            return members_for(trials, slots, there=there, most=most)
        fixed = min(self._resources.members, trials)
        return max(1, min(fixed, most) if self._resources.max_workers is not None else fixed)

    def __call__(self) -> int:
        """How many members there are to be now, at least 1."""
        workers = self._resources.workers
        return max(1, self._share(self.wanted() * workers) // workers)


@dataclass(frozen=True)
class Claim:
    """What one sweep wants of a cluster."""

    priority: int
    """How much of what is contended it gets beside others."""
    wants: float
    """How much it could use."""


def fair_shares(total: float, claims: Mapping[str, Claim]) -> dict[str, float]:
    """Divide something among those who want it, by their priorities; nobody gets more than wanted.

    What one does not want is divided among the others (weighted max-min fairness).

    Args:
        total: How much there is.
        claims: By name.

    Returns:
        How much each gets.
    """
    shares: dict[str, float] = {}
    left, open_ = total, dict(claims)
    while open_:
        weight = sum(claim.priority for claim in open_.values())
        content = {
            name: claim.wants
            for name, claim in open_.items()
            if claim.wants * weight <= left * claim.priority
        }
        if not content:
            return shares | {name: left * claim.priority / weight for name, claim in open_.items()}
        shares |= content
        left -= sum(content.values())
        open_ = {name: claim for name, claim in open_.items() if name not in content}
    return shares
