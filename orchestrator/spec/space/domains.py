"""Domains of a search space: what values a setting may have, and equality of such values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel, Field, field_validator

from orchestrator.spec.validation import ExperimentError, Spec
from orchestrator.system.strict_json import is_number
from orchestrator.system.wording import suggestion
from orchestrator.system.yaml_file import number_if_written_so


class Choice(Spec):
    """One of a list."""

    choice: tuple[Any, ...] = Field(min_length=1)
    when: dict[str, Any] = Field(default_factory=dict)

    @field_validator("choice")
    @classmethod
    def _numbers(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(number_if_written_so, value))


class Uniform(Spec):
    """A real number, uniform between two bounds."""

    uniform: tuple[float, float]
    when: dict[str, Any] = Field(default_factory=dict)


class LogUniform(Spec):
    """A positive real number, uniform in its logarithm between two bounds."""

    log_uniform: tuple[float, float]
    when: dict[str, Any] = Field(default_factory=dict)

    @field_validator("log_uniform")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] <= 0:
            raise ValueError(f"both bounds of `log_uniform` must be above 0, got {list(value)}")
        return value


class IntUniform(Spec):
    """A whole number, uniform between two bounds, both included."""

    int_uniform: tuple[int, int]
    when: dict[str, Any] = Field(default_factory=dict)


SimpleDomain = Choice | Uniform | LogUniform | IntUniform


class Alternatives(Spec):
    """Several domains of one path, of which the conditions let at most one hold at a time.

    Written as a list: each entry a domain with a `when` of its own.
    """

    alternatives: tuple[SimpleDomain, ...] = Field(min_length=1)


Domain = SimpleDomain | Alternatives
_DOMAINS: dict[str, type[Choice] | type[Uniform] | type[LogUniform] | type[IntUniform]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "int_uniform": IntUniform,
}


def parse_domain(path: str, raw: Any) -> Any:
    """A domain as a user writes it: a mapping, or a list of alternatives."""
    if isinstance(raw, BaseModel):
        return raw
    if isinstance(raw, list | tuple):
        parts = cast("list[Any]", raw)
        return Alternatives(alternatives=tuple(parse_domain(path, part) for part in parts))
    if isinstance(raw, dict) and "alternatives" in raw:  # as this model writes itself
        return parse_domain(path, cast("dict[str, Any]", raw)["alternatives"])
    if not isinstance(raw, dict):
        raise ValueError(  # noqa: TRY004 (pydantic turns ValueErrors, not TypeErrors, into messages)
            f"`{path}`: a domain is one of {sorted(_DOMAINS)}, "
            f"for example {{choice: [4, 8]}}; got {raw!r}"
        )
    fields = cast("dict[str, Any]", raw)
    kinds = [key for key in fields if key in _DOMAINS]
    if len(kinds) != 1:
        unknown = [key for key in fields if key not in _DOMAINS and key != "when"]
        hint = suggestion(str(unknown[0]), sorted(_DOMAINS)) if unknown else ""
        raise ValueError(
            f"`{path}`: a domain needs exactly one of {sorted(_DOMAINS)}; got {raw!r}.{hint}"
        )
    return _DOMAINS[kinds[0]].model_validate(fields)


def simple_domains(space: Mapping[str, Domain]) -> Iterator[tuple[str, SimpleDomain]]:
    """Every domain with its path; a path with alternatives comes once for each of them.

    Yields:
        Pairs of a dotted path and a domain.
    """
    for path, domain in space.items():
        for part in domain.alternatives if isinstance(domain, Alternatives) else (domain,):
            yield path, part


def possible_values(space: Mapping[str, Domain], path: str, own: Any) -> list[Any]:
    """What a setting may be in a search.

    Args:
        space: The search space.
        path: Dotted path of the setting.
        own: The file's own value.

    Returns:
        Every choice, the two ends of every range, and the file's own value where the space does not
        set the path at all or only under conditions.
    """
    parts = [domain for where, domain in simple_domains(space) if where == path]
    values = [value for domain in parts for value in edge_values(domain)]
    if not parts or any(domain.when for domain in parts):
        values.append(own)
    return list({repr(value): value for value in values}.values())


def domain_bounds(domain: SimpleDomain) -> tuple[float, float] | None:
    """The bounds of a numeric range, None for a choice."""
    match domain:
        case Choice():
            return None
        case Uniform():
            return domain.uniform
        case LogUniform():
            return domain.log_uniform
        case IntUniform():
            return domain.int_uniform


LARGEST_EXACT = 2**53
"""Whole numbers up to here are exact as floating-point numbers, which samplers draw."""


def value_key(value: Any, place: str = "a value") -> str:
    """A text that is the same for equal values, whether 4 or 4.0, a tuple or a list.

    Args:
        value: A value of a space, or of an entry of `first`.
        place: Where it stands, for the message.

    Returns:
        JSON.

    Raises:
        ExperimentError: If the journal, which is JSON, could not hold it.
    """
    try:
        return json.dumps(_plain(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError):
        raise ExperimentError(
            f"{place}: {value!r} cannot be recorded. Values are texts, finite numbers, true, "
            "false, null, and lists and mappings of these; quote what YAML would read as a date"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_EXACT:
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in cast("Mapping[str, Any]", value).items()}
    return value


def contains(domain: SimpleDomain, value: Any) -> bool:
    """Whether a domain can give a value."""
    bounds = domain_bounds(domain)
    if isinstance(domain, Choice) or bounds is None:
        wanted = value_key(value)
        return any(value_key(one) == wanted for one in cast("Choice", domain).choice)
    if not is_number(value) or (isinstance(domain, IntUniform) and value != int(value)):
        return False
    return bounds[0] <= value <= bounds[1]


def notation(domain: SimpleDomain) -> str:
    """A domain as it stands in a file, without its condition."""
    kind = next(name for name, model in _DOMAINS.items() if isinstance(domain, model))
    return f"{{{kind}: {list(getattr(domain, kind))}}}"


def edge_values(domain: SimpleDomain) -> list[Any]:
    """The values at the edges of a domain: every choice, or the two bounds."""
    bounds = domain_bounds(domain)
    return list(domain.choice) if isinstance(domain, Choice) else list(bounds or ())
