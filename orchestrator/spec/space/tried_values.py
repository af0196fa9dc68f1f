"""Values and points of a search space, tried in whole experiments before a sweep begins."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.spec.experiment import Experiment
from orchestrator.spec.reach import refusal
from orchestrator.spec.space.assignments import active, draw
from orchestrator.spec.space.conditions import condition_values
from orchestrator.spec.space.domains import (
    Choice,
    Domain,
    IntUniform,
    LogUniform,
    SimpleDomain,
    Uniform,
    notation,
    simple_domains,
    value_key,
)
from orchestrator.spec.validation import ExperimentError

DRAWS = 128
"""Trials drawn from a space when a file is read, of which at most half may be impossible."""
_TRIES = 64
"""Trials drawn for one value, of which one has to be possible."""
_TRIED_VALUES = 64
"""Whole numbers of a range that are tried."""


def check_values(experiment: Experiment, space: Mapping[str, Domain]) -> None:
    """Refuse a value that is impossible whatever the other fields are."""
    hosts = condition_values(space)
    for path, domain in simple_domains(space):
        own = [host for host in hosts if active(domain, host)]
        for value in _tried_values(domain) if own else ():
            key = value_key(value)
            with_it = [host for host in own if path not in host or value_key(host[path]) == key]
            error = _never_possible(experiment, space, with_it or own, {path: value})
            if error is None:
                continue
            cure = (
                "If a setting belongs to one choice only, give it a `when`, for example "
                "when: {method.adapter.kind: curlora}"
                if isinstance(domain, Choice)
                else f"{value!r} lies within {notation(domain)}. List the values that are possible "
                "as a `choice`; whole numbers between two bounds are an `int_uniform`"
            )
            raise ExperimentError(f"search.space: an impossible combination: {error}. {cure}")


def _never_possible(
    experiment: Experiment,
    space: Mapping[str, Domain],
    hosts: Sequence[Mapping[str, Any]],
    fixed: Mapping[str, Any],
) -> str | None:
    """Why no trial is possible in which some fields have these values; None where one is."""
    dice = random.Random(0)
    first: str | None = None
    for number in range(_TRIES):
        # Strides reach conditions of every kind before any comes twice.
        host = hosts[number * 7919 % len(hosts)]
        error = refusal(experiment, draw(space, dice, {**host, **fixed}))
        if error is None:
            return None
        first = first or error
    return first


def _tried_values(domain: SimpleDomain) -> list[Any]:
    """The edges of a domain, and values between them."""
    match domain:
        case Choice():
            return list(domain.choice)
        case IntUniform():
            low, high = domain.int_uniform
            close = range(low, min(high + 1, low + _TRIED_VALUES // 2))
            spread = range(low, high + 1, max(1, (high - low) // (_TRIED_VALUES // 2)))
            return sorted({*close, *spread, high})
        case Uniform():
            low, high = domain.uniform
            return [low, high, *(low + share * (high - low) for share in _BETWEEN)]
        case LogUniform():
            low, high = domain.log_uniform
            return [low, high, *(low * (high / low) ** share for share in _BETWEEN)]


_BETWEEN = (math.sqrt(2) - 1, math.sqrt(3) - 1)
"""Shares of a range at which no whole number lies by design."""


def check_point(experiment: Experiment, point: Mapping[str, Any]) -> None:
    """Refuse a point of a grid that is no possible trial."""
    error = refusal(experiment, point)
    if error is not None:
        raise ExperimentError(
            f"search.space: an impossible combination: {error}. Every point of a grid is tried; "
            "give a domain a `when` that leaves this one out"
        )


def check_draws(
    experiment: Experiment, space: Mapping[str, Domain], fixed: Mapping[str, Any], place: str
) -> None:
    """Refuse a space of which most is impossible: a searcher would ask in vain."""
    dice = random.Random(1)
    apart = {path: value for path, value in fixed.items() if path not in space}
    drawn = [{**draw(space, dice, fixed), **apart} for _ in range(DRAWS)]
    errors = [error for point in drawn if (error := refusal(experiment, point)) is not None]
    if 2 * len(errors) > DRAWS:
        share = "every trial" if len(errors) == DRAWS else f"{len(errors)} of {DRAWS} trials"
        raise ExperimentError(
            f"{place}: {share} drawn from the space would be an impossible combination, for "
            f"example: {errors[0]}. List the values that are possible as a `choice`, or give a "
            "field a `when`"
        )
