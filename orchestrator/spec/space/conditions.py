"""Conditions (`when`) of a search space: what they depend on, and whether they can hold."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from orchestrator.spec.space.assignments import active, assignments, wanted_values
from orchestrator.spec.space.domains import (
    Alternatives,
    Choice,
    Domain,
    SimpleDomain,
    contains,
    edge_values,
    simple_domains,
    value_key,
)
from orchestrator.spec.validation import ExperimentError

_HOSTS = 5_000
"""Combinations of conditions that are looked at."""


def check_conditions(space: Mapping[str, Domain]) -> None:
    """Refuse conditions that never hold, and two of one path that hold at a time."""
    hosts = condition_values(space)
    for path in space:
        domains = [domain for where, domain in simple_domains(space) if where == path]
        held = [sum(active(domain, host) for domain in domains) for host in hosts]
        double = next((h for h, number in zip(hosts, held, strict=True) if number > 1), None)
        if double is not None:
            raise ExperimentError(
                f"search.space: {path}: several of its domains hold at a time, for example under "
                f"{_shown(double)}. Give them a `when` that excludes one another"
            )
        for domain in domains:
            if len(hosts) < _HOSTS and not any(active(domain, host) for host in hosts):
                raise ExperimentError(
                    f"search.space: {path}: `when` {domain.when!r} never holds in this space; fix "
                    "it, or take the domain out"
                )


def condition_values(space: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """The combinations of what conditions depend on; the first `_HOSTS` of them."""
    wanted: dict[str, list[Any]] = {}
    for _, domain in simple_domains(space):
        for parent, value in domain.when.items():
            wanted.setdefault(parent, []).extend(wanted_values(value))
    parents = {path: domain for path, domain in space.items() if path in wanted}

    def values(path: str, domain: SimpleDomain) -> list[Any]:
        named = [value for value in wanted[path] if contains(domain, value)]
        return list({value_key(v): v for v in (*edge_values(domain), *named)}.values())

    listed = {
        path: Alternatives(
            alternatives=tuple(
                Choice(choice=tuple(values(path, part)), when=part.when)
                for _, part in simple_domains({path: domain})
            )
        )
        for path, domain in parents.items()
    }
    return list(islice(assignments(listed, edge_values), _HOSTS))


def _shown(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {value!r}" for path, value in point.items())
