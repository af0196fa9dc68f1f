"""Assignments of a search space: every one, one at random, and those with some values fixed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from orchestrator.spec.space.domains import (
    Alternatives,
    Choice,
    Domain,
    IntUniform,
    LogUniform,
    SimpleDomain,
    Uniform,
    edge_values,
    simple_domains,
)


def ordered_space(space: Mapping[str, Domain]) -> Iterator[tuple[str, SimpleDomain]]:
    """The domains, each after the ones its `when` depends on.

    Yields:
        Pairs of a dotted path and its domain.

    Raises:
        ValueError: If conditions depend on one another in a circle.
    """
    parts: dict[str, list[SimpleDomain]] = {}
    for path, domain in simple_domains(space):
        parts.setdefault(path, []).append(domain)
    done: set[str] = set()
    while parts:
        ready = [p for p, domains in parts.items() if all(set(d.when) <= done for d in domains)]
        if not ready:
            raise ValueError(f"the conditions of {sorted(parts)} depend on one another")
        for path in ready:
            for domain in parts.pop(path):
                yield path, domain
            done.add(path)


def draw(
    space: Mapping[str, Domain], dice: random.Random, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """One assignment of the space at random.

    Args:
        space: The search space.
        dice: Where random numbers come from.
        fixed: Values that are not drawn; one whose condition does not hold is left out.

    Returns:
        Dotted path to value.
    """
    chosen: dict[str, Any] = {}
    for path, domain in ordered_space(space):
        if path in chosen or not active(domain, chosen):
            continue
        chosen[path] = fixed[path] if path in fixed else _drawn(domain, dice)
    return chosen


def _drawn(domain: SimpleDomain, dice: random.Random) -> Any:
    match domain:
        case Choice():
            return dice.choice(domain.choice)
        case IntUniform():
            return dice.randint(*domain.int_uniform)
        case Uniform():
            return dice.uniform(*domain.uniform)
        case LogUniform():
            low, high = domain.log_uniform
            return min(high, max(low, low * (high / low) ** dice.random()))


def narrowed(space: Mapping[str, Domain], entry: Mapping[str, Any]) -> dict[str, Domain]:
    """The space with the values of an entry of `first` fixed."""
    return {
        path: _fixed(domain, entry[path]) if path in entry else domain
        for path, domain in space.items()
    }


def _fixed(domain: Domain, value: Any) -> Domain:
    if isinstance(domain, Alternatives):
        return Alternatives(
            alternatives=tuple(Choice(choice=(value,), when=d.when) for d in domain.alternatives)
        )
    return Choice(choice=(value,), when=domain.when)


def active(domain: SimpleDomain, chosen: Mapping[str, Any]) -> bool:
    """Whether a domain's conditions hold under the values chosen so far."""
    return all(
        parent in chosen and chosen[parent] in wanted_values(want)
        for parent, want in domain.when.items()
    )


def wanted_values(value: Any) -> list[Any]:
    """The values that a condition names: one, or any of a list."""
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else [value]


def assignments(
    space: Mapping[str, Domain], values: Callable[[SimpleDomain], Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """Every assignment of some values of each domain, conditions respected, in the file's order.

    Args:
        space: The search space.
        values: Gives the values of a domain.

    Yields:
        Dotted path to value; the last path of the space varies first.
    """
    order = list(ordered_space(space))

    def below(number: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while number < len(order):
            path, domain = order[number]
            number += 1
            if path not in chosen and active(domain, chosen):
                for value in values(domain):
                    yield from below(number, {**chosen, path: value})
                return
        yield chosen

    yield from below(0, {})


def grid_points(space: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """Every assignment of a space of choices, conditions respected, in a fixed order."""
    return list(assignments(space, edge_values))
