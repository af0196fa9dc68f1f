"""A search space in Optuna's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.spec.space.assignments import ordered_space
from orchestrator.spec.space.domains import (
    Choice,
    Domain,
    IntUniform,
    LogUniform,
    SimpleDomain,
    Uniform,
    value_key,
)


def optuna_parameters(space: Mapping[str, Domain]) -> list[tuple[str, str, SimpleDomain]]:
    """Optuna's name, path and domain of every parameter, parents before what depends on them."""
    found: list[tuple[str, str, SimpleDomain]] = []
    counts: dict[str, int] = {}
    for path, domain in ordered_space(space):
        number = counts.get(path, 0)
        counts[path] = number + 1
        # Alternatives of one path have other values, which Optuna wants under another name.
        found.append((path if number == 0 else f"{path}#{number}", path, domain))
    return found


def suggest_value(trial: optuna.Trial, key: str, domain: SimpleDomain) -> Any:
    """Let Optuna suggest a value of a parameter, as it holds it."""
    match domain:
        case Choice():
            return trial.suggest_categorical(key, range(len(domain.choice)))
        case Uniform():
            return trial.suggest_float(key, *domain.uniform)
        case LogUniform():
            return trial.suggest_float(key, *domain.log_uniform, log=True)
        case IntUniform():
            return trial.suggest_int(key, *domain.int_uniform)


def distribution_of(domain: SimpleDomain) -> BaseDistribution:
    """A domain as Optuna's distribution."""
    match domain:
        case Choice():
            return CategoricalDistribution(range(len(domain.choice)))
        case Uniform():
            return FloatDistribution(*domain.uniform)
        case LogUniform():
            return FloatDistribution(*domain.log_uniform, log=True)
        case IntUniform():
            return IntDistribution(*domain.int_uniform)


def to_optuna(domain: SimpleDomain, value: Any) -> Any:
    """A value as Optuna holds it: of a choice the place, as it may be a list or 1 beside true."""
    match domain:
        case Choice():
            wanted = value_key(value)
            return next(i for i, one in enumerate(domain.choice) if value_key(one) == wanted)
        case IntUniform():
            return int(value)
        case _:
            return float(value)


def from_optuna(domain: SimpleDomain, value: Any) -> Any:
    """The value that stands behind Optuna's; see `to_optuna`."""
    return domain.choice[value] if isinstance(domain, Choice) else value
