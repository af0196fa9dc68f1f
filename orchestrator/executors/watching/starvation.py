"""Telling why nothing begins: what waits for a place on the cluster, and what others hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from orchestrator.spec.sections import ResourceSpec
from orchestrator.system.formatting import count, show_duration

WAIT_SECONDS = 45.0
"""How long something may wait for a place before that is told."""
AGAIN_SECONDS = 300.0
"""How often it is told again."""


class Starvation:
    """What waits for a place, and since when."""

    def __init__(
        self,
        resources: ResourceSpec,
        note: Callable[[str], None],
        *,
        cluster: Callable[[], tuple[Mapping[str, float], Mapping[str, float]]],
        others: Callable[[], str] = str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing waiting.

        Args:
            resources: What each that waits needs.
            note: Told.
            cluster: Gives what the cluster has, and what of it is free.
            others: Gives what other sweeps hold, in words; empty where there is none.
            clock: Seconds.
        """
        self._resources, self._note, self._cluster = resources, note, cluster
        self._others, self._clock = others, clock
        self._since: dict[str, float] = {}
        self._told = -AGAIN_SECONDS

    def look(self, waiting: Iterable[str]) -> None:
        """Tell what has waited for long.

        Args:
            waiting: Members or trials without a place now.
        """
        now = self._clock()
        self._since = {name: self._since.get(name, now) for name in waiting}
        late = [name for name, since in self._since.items() if now - since >= WAIT_SECONDS]
        if late and now - self._told >= AGAIN_SECONDS:
            self._told = now
            longest = now - min(self._since[name] for name in late)
            others = self._others()
            self._note(
                f"{', '.join(late)} {'has' if len(late) == 1 else 'have'} waited for a place for "
                f"{show_duration(longest)}: {arithmetic(self._resources, *self._cluster())}"
                + (f". Sweeps beside this one: {others}" if others else "")
            )


def arithmetic(
    resources: ResourceSpec, there: Mapping[str, float], free: Mapping[str, float]
) -> str:
    """What is needed and what there is.

    Args:
        resources: What each that waits needs.
        there: What the cluster has.
        free: What of it is free.

    Returns:
        Words that follow a colon.
    """
    each = [(resources.cpus_per_worker, "CPU")]
    if resources.gpus_per_worker:
        each.append((resources.gpus_per_worker, "GPU"))
    needs = " and ".join(
        f"{resources.workers * amount:g} {kind}s (of {there.get(kind, 0.0):g} in the cluster, "
        f"{free.get(kind, 0.0):g} {'is' if free.get(kind, 0.0) == 1 else 'are'} free)"
        for amount, kind in each
    )
    return (
        f"each needs {count(resources.workers, 'worker')} and so {needs}. Others hold the rest, or "
        "no single node has a worker's share free; it begins as soon as there is a place"
    )
