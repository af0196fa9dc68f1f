"""A trial that the search has not proposed, in the terms of its space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.records.scores import flat
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.space.assignments import active, ordered_space
from orchestrator.spec.space.domains import Domain, contains

_NEUTRAL = frozenset(("training.seed",))
"""Settings whose values are no better or worse, so that a trial with another one says as much."""


def in_space(space: Mapping[str, Domain], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The overrides by which a space proposes some settings.

    Args:
        space: The space.
        settings: By dotted path.

    Returns:
        A value for each of its paths that has a place; None where the settings lie outside of it.
    """
    found: dict[str, Any] = {}
    for path, domain in ordered_space(space):
        if path in found or not active(domain, found):
            continue
        if path not in settings or not contains(domain, settings[path]):
            return None
        found[path] = settings[path]
    return found


def observed_terms(
    experiment: Experiment, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, str]:
    """What a searcher can learn of a trial that a person has asked for.

    Args:
        experiment: The sweep's.
        overrides: The trial's.

    Returns:
        Its overrides in the terms of the space, and nothing; or None, and why not: it sets what is
        not searched, so that its score is not that of a point of the space, or lies outside.
    """
    search = experiment.search
    if search is None:
        return None, "nothing is searched"
    own = flat(experiment.model_dump(mode="json"))
    others = [
        path
        for path, value in overrides.items()
        if path not in search.space and path not in _NEUTRAL and own.get(path) != value
    ]
    if others:
        return None, f"it sets {', '.join(others)}, which the search does not"
    whole = flat(experiment.with_overrides(overrides).model_dump(mode="json"))
    found = in_space(search.space, {**whole, **overrides})
    return found, "" if found is not None else "it lies outside the search space"
